"""Where the CPU time of a scan goes: the share of it that stands inside passes of the model.

    python -m benchmarks.profile_scan [--budget 2m] [--probe SELECTOR]... [--side 224] [--layers 12]

Builds a CLIP with a ViT-B/16 image tower and random weights, and scans it at quick effort, in this process and on one thread. A timer of CPU
time looks at the stack every 10 ms; what has passed since the last look is counted as inside a pass where a module of torch is being called
or gradients are being computed. Loading and planning are not counted, units of work and judging are. Random weights say nothing, so no verdict
is looked at.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from benchmarks.real_size import CLIP_L_TEXT, make_data, save_clip
from vlaudit.audit.executor import LocalExecutor
from vlaudit.audit.plan import Plan, make_plan
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec, seconds
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import Family, Trials
from vlaudit.registry import ProbeRegistry

PASSES = {"_call_impl", "_engine_run_backward"}  # of torch.nn.Module, and of torch.autograd
LOOKS = 0.01  # seconds of CPU time


class Profile:
    """Seconds of CPU time by probe: in all, and inside passes of the model. ``outside``: the rest, by the function of ours that it stands in."""

    def __init__(self) -> None:
        self.probe = ""
        self.whole, self.inside, self.outside = Counter[str](), Counter[str](), Counter[str]()
        self._last = 0.0

    def _look(self, _number: int, frame: FrameType | None) -> None:
        now = time.process_time()
        took, self._last = now - self._last, now
        self.whole[self.probe] += took  # type: ignore[assignment]
        names, ours = set(), ""
        while frame is not None:
            code = frame.f_code
            names.add(code.co_name)
            if not ours and any(part in code.co_filename for part in ("/vlaudit/", "/attacks/")):
                ours = f"{Path(code.co_filename).stem}.{code.co_name}"
            frame = frame.f_back
        if names & PASSES:
            self.inside[self.probe] += took  # type: ignore[assignment]
        else:
            self.outside[ours] += took  # type: ignore[assignment]

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._last = time.process_time()
        before = signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, LOOKS, LOOKS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)


def planned(folder: Path, side: int, layers: int, budget: str, probes: list[str]) -> Plan:
    """The model, its data and the plan of a quick scan."""
    from transformers import CLIPConfig

    torch.manual_seed(0)
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": layers, "num_attention_heads": 12, "patch_size": 16,
              "image_size": side}  # fmt: skip
    text = {**CLIP_L_TEXT, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": layers,
            "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}  # fmt: skip
    for name in ("model", "data"):
        (folder / name).mkdir()
    save_clip(folder / "model", CLIPConfig(vision_config=vision, text_config=text, projection_dim=512))
    make_data(folder / "data")
    spec = TargetSpec(model=f"hf:{folder / 'model'}", data=str(folder / "data"), groups=["shade"])
    registry = ProbeRegistry.load()
    chosen = [name for name in registry.select(probes) if Family.MATCHING in registry.get(name).info.families]
    request = Request(targets=[spec], probes=chosen, budget=seconds(budget))
    subjects, references = Loader(torch.device("cpu"), allow_network=False).subjects(request.targets)
    return make_plan(request, registry, subjects, references)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--budget", default="2m")
    options.add_argument("--probe", action="append", default=[])
    options.add_argument("--side", type=int, default=224)
    options.add_argument("--layers", type=int, default=12)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    profile, registry = Profile(), ProbeRegistry.load()
    with tempfile.TemporaryDirectory() as name:
        plan = planned(Path(name), chosen.side, chosen.layers, chosen.budget, chosen.probe)
        executor = LocalExecutor(plan, ArtifactStore(Path(name)), None)
        print(f"{len(plan.units)} units of {len({unit.probe for unit in plan.units})} probes")
        with profile.watching():
            for one in plan.planned:
                profile.probe = one.probe
                trials: list[Any] = [trial for unit in one.units for trial in executor.close(unit).trials]
                if trials:
                    registry.make(one.probe).judge(Trials(trials, reference_note="none"), plan.request.policy)
    whole, inside = sum(profile.whole.values()), sum(profile.inside.values())
    for probe, took in profile.whole.most_common():
        print(f"{probe:32} {took:7.1f} s, {profile.inside[probe] / took:6.1%} inside passes")
    print(f"in all {whole:.0f} s of CPU time, {inside / whole:.1%} inside passes of the model")
    for place, took in profile.outside.most_common(6):
        print(f"  outside, {place}: {took / whole:.1%}")


if __name__ == "__main__":
    main()
