"""An audit from plan to findings: plan, run, journal, judge, and the executors."""
