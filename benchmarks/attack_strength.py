"""Strength and speed of the worst-case attack against torchattacks and foolbox: same pictures, epsilon and threads.

    pip install -e ".[benchmark]"
    python benchmarks/attack_strength.py [--pictures 256] [--epsilon 8] [--models standard hardened masked]

Three prompted matchers of the zoo: the standard one, its adversarially trained twin, and the standard one behind a
rounding of the pixels that has no gradient. torchattacks' AutoAttack takes 10 steps where the published one takes 100. Nothing stops at a verdict. Times are of this process's CPU (which other
processes do not distort) and of the wall clock; both are given as ratios to AutoAttack's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from vlaudit.audit.plan import context
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import TARGET
from vlaudit.search.autoattack import autoattack as suite
from vlaudit.search.gradient import BUDGETS, worst_case
from vlaudit.zoo import FOLDER

SPECIMENS = {"standard": "flagship", "hardened": "hardened", "masked": "flagship"}
LEVELS = 32  # grey levels left by the masked matcher's rounding
SLOWEST = {"standard": 1 / 5, "hardened": 1 / 2, "masked": 1 / 2}  # of AutoAttack's time
SLACK = 0.005  # of robust accuracy above AutoAttack's
PGD_STEPS = 50


class _Rounding(torch.autograd.Function):
    """Rounds the pixels; its gradient is zero, as that of rounding is."""

    @staticmethod
    def forward(ctx: object, images: Tensor) -> Tensor:
        return (images * LEVELS).round() / LEVELS

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return torch.zeros_like(gradient)


class Matcher(nn.Module):
    """A prompted matcher in the form that attack libraries expect. Counts the pictures it sees."""

    def __init__(self, classify: Callable[[Tensor], Tensor], device: torch.device, masked: bool) -> None:
        super().__init__()
        self.classify, self.masked, self.seen = classify, masked, 0
        self.register_parameter("place", nn.Parameter(torch.zeros(1, device=device), requires_grad=False))

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.classify(_Rounding.apply(images) if self.masked else images)


def load(name: str, data: str, pictures: int, device: torch.device) -> tuple[Matcher, Tensor, Tensor, int]:
    """A matcher of the zoo under the plain prompt, pictures (N, 3, H, W), labels (N,), and the number of labels."""
    spec = TargetSpec(model=f"open_clip:local-dir:{FOLDER / 'weights' / SPECIMENS[name]}", data=data)
    (subject, *_), _ = Loader(device, allow_network=False).subjects([spec])
    ctx = context(Request(targets=[], probes=[]), subject, "benchmark", TARGET, ArtifactStore(Path()))
    examples = ctx.data.examples
    picked = [examples[i] for i in sorted(ctx.rng("pictures").permutation(len(examples))[:pictures].tolist())]
    matcher = Matcher(ctx.target.classifier(ctx.labels), device, name == "masked").eval()
    return matcher, ctx.images(picked).contiguous(), ctx.label_index(picked), len(ctx.labels)


Attack = Callable[[Matcher, Tensor, Tensor, float, int], Tensor]


def autoattack(model: Matcher, images: Tensor, labels: Tensor, epsilon: float, classes: int) -> Tensor:
    from torchattacks import AutoAttack

    return AutoAttack(model, eps=epsilon, n_classes=classes, seed=0)(images, labels)


def hundred_steps(model: Matcher, images: Tensor, labels: Tensor, epsilon: float, classes: int) -> Tensor:
    """AutoAttack's attacks with the steps of the published evaluation, as ``suite = "autoattack"`` runs them."""
    return suite(model, images, labels, epsilon, 0)[1]


def torchattacks_pgd(model: Matcher, images: Tensor, labels: Tensor, epsilon: float, classes: int) -> Tensor:
    from torchattacks import PGD

    return PGD(model, eps=epsilon, alpha=epsilon / 4, steps=PGD_STEPS)(images, labels)


def foolbox_pgd(model: Matcher, images: Tensor, labels: Tensor, epsilon: float, classes: int) -> Tensor:
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfPGD

    attack = LinfPGD(rel_stepsize=1 / 4, steps=PGD_STEPS)
    return attack(PyTorchModel(model, bounds=(0, 1)), images, labels, epsilons=epsilon)[1]


def ours(model: Matcher, images: Tensor, labels: Tensor, epsilon: float, classes: int) -> Tensor:
    return worst_case(model, images, labels, range(len(images)), epsilon, BUDGETS["thorough"]).adversarial


PEER = "torchattacks AutoAttack"
ATTACKS: dict[str, Attack] = {
    PEER: autoattack,
    "AutoAttack, 100 steps": hundred_steps,
    f"torchattacks PGD-{PGD_STEPS}": torchattacks_pgd,
    f"foolbox PGD-{PGD_STEPS}": foolbox_pgd,
    "vlaudit": ours,
}


def measure(
    attack: Attack, model: Matcher, images: Tensor, labels: Tensor, epsilon: float, classes: int
) -> list[float]:
    """Robust accuracy, CPU seconds, wall seconds, and pictures passed forward."""
    torch.manual_seed(0)
    model.seen = 0
    cpu, wall = time.process_time(), time.perf_counter()
    attacked = attack(model, images, labels, epsilon, classes)
    cpu, wall, seen = time.process_time() - cpu, time.perf_counter() - wall, model.seen
    assert float((attacked.detach() - images).abs().max()) <= epsilon + 1e-6, "the attack left its radius"
    with torch.no_grad():
        robust = float((model(attacked.clamp(0, 1)).argmax(dim=1) == labels).float().mean())
    return robust, cpu, wall, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--epsilon", type=float, default=8, help="in 1/255")
    parser.add_argument("--data", default="zoo:kinds")
    parser.add_argument("--models", nargs="+", choices=list(SPECIMENS), default=list(SPECIMENS))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        compare(name, options.data, options.pictures, options.epsilon / 255, torch.device(options.device))


def compare(name: str, data: str, pictures: int, epsilon: float, device: torch.device) -> None:
    """Run all attacks on one matcher and print a line for each as soon as it is known."""
    model, images, labels, classes = load(name, data, pictures, device)
    with torch.no_grad():
        clean = float((model(images).argmax(dim=1) == labels).float().mean())
    print(f"\n{name}: {len(images)} pictures, {classes} labels, epsilon {epsilon * 255:g}/255, clean {clean:.1%}")
    print(
        f"{'attack':26}{'robust':>8}{'CPU s':>9}{'ratio':>8}{'wall s':>9}{'ratio':>8}{'passes a picture':>18}",
        flush=True,
    )
    peer = measure(ATTACKS[PEER], model, images, labels, epsilon, classes)
    for key, attack in ATTACKS.items():
        result = peer if key == PEER else measure(attack, model, images, labels, epsilon, classes)
        robust, cpu, wall, seen = result
        ratios = f"{cpu:9.1f}{cpu / peer[1]:8.3f}{wall:9.1f}{wall / peer[2]:8.3f}"
        print(f"{key:26}{robust:8.1%}{ratios}{seen / len(images):16.0f}", flush=True)
        if attack is ours:
            strong, fast = (
                "met" if ok else "missed" for ok in (robust <= peer[0] + SLACK, cpu <= SLOWEST[name] * peer[1])
            )
    print(f"strength {strong}, speed (at most {SLOWEST[name]:.2g} of AutoAttack's) {fast}", flush=True)


if __name__ == "__main__":
    main()
