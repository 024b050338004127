"""How scanners of model files compare on the tests' corpus: dangerous files called safe, harmless ones called dangerous, seconds.

Each scanner runs in a Python of its own, since some cannot be installed together; give those that are there:

    python -m venv picklescan && picklescan/bin/pip install picklescan
    python -m benchmarks.file_scanners --scanner picklescan=picklescan/bin/python --scanner modelscan=modelscan/bin/python

The column "as .pkl" takes the plain pickles among the dangerous files alone, under the suffix that every scanner looks into.
"Said" is a file for which a scanner says that it did not or could not look into it; a tool that shows no such thing has none.
The corpus was made with vlaudit's own inspection in view, so its row is no independent check.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from tests.inspection.corpus import dangerous, harmless, run_loaders

VERDICTS = {  # statements that set `verdict` for the file at `path`, after those that come before "---"
    "vlaudit": """
        from vlaudit.inspection.content import inspect_file
        ---
        found = inspect_file(pathlib.Path(path))
        verdict = "dangerous" if found.danger else "safe" if found.understood else "said"
    """,
    "picklescan": """
        from picklescan.scanner import scan_file_path
        ---
        found = scan_file_path(path)
        verdict = "dangerous" if found.issues_count else "said" if found.scan_err else "safe"
    """,
    "modelscan": """
        from modelscan.modelscan import ModelScan
        ---
        found = ModelScan().scan(path)
        left_out = found["errors"] or found["summary"]["skipped"]["total_skipped"]
        verdict = "dangerous" if found["summary"]["total_issues"] else "said" if left_out else "safe"
    """,
    "fickling": """
        from fickling import scan_file
        ---
        found = scan_file(path)
        verdict = "dangerous" if not found.is_safe else "safe"
    """,
    "modelaudit": """
        import os
        os.environ["PROMPTFOO_DISABLE_TELEMETRY"] = os.environ["NO_ANALYTICS"] = "1"
        from modelaudit.core import scan_model_directory_or_file
        ---
        found = scan_model_directory_or_file(path)
        grave = [issue for issue in found.issues if issue.severity.value == "critical"]
        verdict = "dangerous" if grave else "said" if found.has_errors or not found.success or not found.files_scanned else "safe"
    """,
}


def judge(scanner: str, python: str, files: list[Path]) -> list[tuple[str, float]]:
    """A verdict and the seconds it took, for each file."""
    before, each = (textwrap.dedent(part) for part in VERDICTS[scanner].replace("    ---", "---").split("---"))
    program = "\n".join(
        ["import contextlib, json, pathlib, sys, time", before, "results = []", "for path in json.load(open(sys.argv[1])):",
         "    then = time.perf_counter()", "    try:", "        with contextlib.redirect_stdout(sys.stderr):",
         textwrap.indent(each, " " * 12), "    except Exception:", "        verdict = 'said'",
         "    results.append((verdict, time.perf_counter() - then))", "print('RESULTS' + json.dumps(results))"]
    )  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".json") as listed:
        json.dump([str(path) for path in files], listed)
        listed.flush()
        done = subprocess.run([python, "-c", program, listed.name], capture_output=True, text=True)
    if "RESULTS" not in done.stdout:
        raise SystemExit(f"{scanner} did not run: {done.stderr[-800:]}")
    return json.loads(done.stdout.rpartition("RESULTS")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scanner", action="append", default=[], metavar="NAME=PYTHON", help=f"one of {', '.join(VERDICTS)}")
    parser.add_argument("--list", action="store_true", help="name the files that a scanner judges wrongly")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bad, good = dangerous(Path(folder, "dangerous")), harmless(Path(folder, "harmless"))
        ran = run_loaders(bad)
        print(f"{len(bad)} dangerous files of {len({file.kind for file in bad})} kinds, {len(ran)} shown to run; {len(good)} harmless files")
        plain = [Path(folder, f"{index}.pkl") for index, file in enumerate(bad) if file.kind.startswith(("pickle of", "pickle by", "two"))]
        for path in plain:
            shutil.copy(bad[int(path.stem)].path, path)
        print("| scanner | dangerous: called safe | said | as .pkl: called safe | harmless: called dangerous | said | milliseconds a file, median (longest) |\n|---|---|---|---|---|---|---|")
        for name, _, python in (entry.partition("=") for entry in [f"vlaudit={sys.executable}", *arguments.scanner]):
            found = judge(name, python, [*(file.path for file in bad), *good, *plain])
            first, second = [verdict for verdict, _ in found[: len(bad)]], [verdict for verdict, _ in found[len(bad) : len(bad) + len(good)]]
            third = [verdict for verdict, _ in found[-len(plain) :]]
            times = sorted(1000 * seconds for _, seconds in found)
            print(f"| {name} | {first.count('safe')} of {len(bad)} | {first.count('said')} | {third.count('safe')} of {len(plain)} | {second.count('dangerous')} of {len(good)} | "
                  f"{second.count('said')} | {times[len(times) // 2]:.1f} ({times[-1]:.0f}) |", flush=True)  # fmt: skip
            if arguments.list:
                for file, verdict in zip(bad, first, strict=True):
                    if verdict == "safe":
                        print(f"  called safe: {file.kind}: {file.path.relative_to(folder)}")
                for path, verdict in zip(good, second, strict=True):
                    if verdict == "dangerous":
                        print(f"  called dangerous: {path.relative_to(folder)}")


if __name__ == "__main__":
    main()
