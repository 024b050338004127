"""Every number that decides a verdict is the policy's, or stands in the table of what is built into the statistics.

Functions are followed by name from ``judge`` and ``decided``, through what a module imports of the attacks, the statistics, the policy and the words of
a judge. What takes a context or imports torch makes trials, and so do its methods where a class holds a context: a judge has neither. A number is found
wherever it stands: in a comparison, in arithmetic, as an argument or a default, by itself or as a constant in capital letters. None are 0, 1 and 2, what
rounding hides (up to 1e-6), square roots, seeds, places in a list, what is written into a text, and how often is drawn where its name says so. A constant may be in ``BUILT_IN`` of its module; a few
numbers are excused, each with the reason why it decides nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from tests.house.imports import modules
from vlaudit.records import BuiltIn

TOLD = "what a reader is told, not what is decided"
DRAWS = "how often is drawn, permuted or resampled"
DIGITS = "the last digits of a computation, or what keeps it from dividing by 0"
GUESS = "a half is guessing between two, or a centre"
FORMULA = "of a published formula, or of arithmetic"
THREE = "as many intervals are to hold together (Bonferroni)"
NEARLY = "which upper ends are worth taking: the largest of them is the interval's"
MAKES = "of the attempt, which makes the trials: followed for its name alone"
EXCUSED = {
    "answers.meaning": {"len(word) > 3": "a reader's rule, whose error is measured"},
    "backdoor.demo_trojan.verdict": {"FINALISTS": "how many words are tried further", "0.2 * total": TOLD},
    "backdoor.generation_diversity.verdict": {"max(1 - sum(cosines) / max(1, len(cosines)), 0.0001)": DIGITS},
    "backdoor.output_collapse_inversion.verdict": {"READ": "how many rows an older audit read out"},
    "backdoor.personal_token_audit.verdict": {"(token + word).most_common(8)": TOLD},
    "bias.association.effect": {"DIVISIONS": DRAWS},
    "bias.counterfactual_gap": {"1.5 * abs(gap.mean)": TOLD, "spread < 0.05": TOLD},
    "bias.counterfactual_gap.gaps": {
        "(1 - level) / 3": THREE, "chance(null, float(np.median(null)), (0.0, 0.95))": TOLD, "np.zeros((3, len(usable)))": "a shape",
    },
    "bias.cross_family_stereotypes": {"range(3)": TOLD},
    "bias.demo_skew_amplification.disparity": {
        "i / (len(cells) - 1) - 0.5": GUESS, "p > 0.5": GUESS, "p != 0.5": GUESS, "mean_of(shares, level)[1].low > 0.5": GUESS,
    },
    "bias.group_performance.gap": {"(1 - level) / 3": THREE},
    "bias.prompt_intervention.concentration_change": {
        "(on_simplex(unmixed(drawn.sum(axis=axis), confusions)) for axis in (3, 2))": "a shape", "rng.random((FLIPS, len(own))) < 0.5": GUESS,
    },
    "bias.rank_skew": {"CLOSER": THREE, "max(20, n // 10)": "the default of a parameter", "n // 10": "the default of a parameter"},
    "bias.rank_skew.ranking": {
        "WIDEST": "a ratio without end, on paper", "betainc(np.maximum(most, 1e-09), places[known] - most + 1, 0.5)": GUESS,
        "np.where(known, first / np.maximum(both, 1e-09), 0.5)": GUESS,
    },
    "bias.representation": {"NAMING": "what part of a second lot a cure's figure counts", "np.quantile(null, [0.025, 0.975])": TOLD},
    "bias.representation.concentration": {"bounds(float(own.values[i]), own.draws[:, i], 0.025)": TOLD},
    "privacy.canary_exposure.exposure": {"DRAWN": "of a trial: how many codes a canary is ranked among", "MOST": "of a trial: the same in bits"},
    "privacy.context_leak.verdict": {"SAID": TOLD},
    "privacy.memorization_norm.noise_norm": {"rng.choice(null, (500, len(null)))": DRAWS},
    "privacy.prompt_mia": {"np.clip(losses, 1e-06, 50.0)": DIGITS},
    "privacy.prompt_only_leak": {"SHARES": "of a trial: how strong what is planted is; how strong it must be is the policy's"},
    "privacy.t2i_mia.likelihood": {
        "LEVELS": MAKES, "PIA_LEVEL": MAKES, "SECMI_LEVEL": MAKES, "SHUFFLED_LEVEL": MAKES, "(first - again).flatten(1).norm(p=4, dim=1)": MAKES,
    },
    "privacy.vlm_mia.description": {"range(999)": DRAWS},
    "probe.claim": {"chance(ends: tuple[float, float]=(0.025, 0.975))": TOLD, "shows_of(most: int=3)": TOLD},
    "robustness.clip_autoattack": {"RADII": TOLD},
    "robustness.cropa.transfer": {"EPSILON": TOLD, "[None] * 6": TOLD},
    "robustness.homoglyph_sweep": {
        "2.5 * pstdev(values)": NEARLY, "4 / len(values)": NEARLY, "20000 if exactly else 2000": DRAWS, "len(few) > 4": TOLD,
    },
    "robustness.probabilistic_prompt_robustness": {"_flipped(times: int=4)": TOLD},
    "robustness.prompt_invariance": {"cases_per_unit: ClassVar[int] = 100": MAKES},
    "robustness.query_free_suffix.suffix_search": {"LENGTH": MAKES},
    "shared.blind_baseline": {"(upper - quarter) / 1.35": FORMULA, "np.quantile(features, [0.25, 0.5, 0.75], axis=0)": FORMULA},
    "shared.excess": {"p < 0.0001": TOLD},
    "shared.groups": {"len(names) > 8": TOLD},
    "shared.membership": {
        "SET_SIZES": TOLD, "min(value, 0.5)": TOLD, "np.linspace(0, 1, 51)": TOLD, "np.tile(ranks, (200, 1))": DRAWS, "range(200)": DRAWS,
        "sure.low > 0.5": GUESS,
    },
    "shared.scorer_readings": {"count // 8": DRAWS, "np.tile(own, (4, 1, 1, 1))": DRAWS},
    "shared.text_triggers.verdict": {"_ALIKE": "which of several strings that stand apart is named", "tried ** 3": FORMULA},
    "shared.transfer_map": {"np.quantile(ratios[np.isfinite(ratios)], [0.025, 0.975])": TOLD},
    "shared.trigger_inversion.rules": {"len(searched) <= 20": TOLD, "len(self.skipped) > 8": TOLD},
    "shared.trigger_inversion.verdict": {"FEWER": DRAWS, "len({t['label'] for t in trials.target}) <= 200": DRAWS, "WIDE": TOLD, "CAME_OUT": TOLD},
    "statistics.base": {"range(50)": DIGITS},
    "statistics.extremes": {
        "DRAWS * 100": DRAWS, "max(2000, DRAWS * 100 // count)": DRAWS, "math.log(0.5)": GUESS, "np.quantile(null, (0.5, *QUANTILES))": GUESS,
        "n < 3": "of two there is no spread of what is left",
    },
    "statistics.means": {"0.5 - tail": FORMULA, "2000000 // count": "rows that memory holds"},
    "statistics.misclassification": {"np.maximum(strength * overall[:, None] + self.own(names) + more, 0.001)": DIGITS},
    "statistics.rates": {"4 * n": FORMULA, "8 * n": FORMULA, "MOST_NEEDED": TOLD},
    "statistics.roc": {
        "PSEUDO / 4": FORMULA, "float(_auc_parts(positives, negatives)[0]) if size(positives) and size(negatives) else 0.5": GUESS,
        "np.minimum(t.ppf((1 + level) / 2, freedom) * np.sqrt(a + b) / (inner * (1 - inner)), 500)": DIGITS,
    },
    "statistics.sequential": {"_REACH": DIGITS, "_NODES": DIGITS, "0 < self.alpha < 0.5": "what a level may be"},
    "statistics.strata": {"np.where(trials > 0, hits / np.maximum(trials, 1e-09), 0.5)": GUESS},
    "supply_chain.unsafe_file": {"len(unknown) > 3": TOLD},
}  # fmt: skip

FOLLOWED = ("vlaudit.attacks.", "vlaudit.statistics", "vlaudit.probe", "vlaudit.policy", "vlaudit.answers", "vlaudit.scorer")
SILENT = {"threshold", "default_rng"}  # calls whose numbers are the policy's, or a seed
SAMPLES = {"draws", "flips", "permutations", "resamples", "n_resamples", "shown"}  # names of how often is drawn, and of how much is shown
OF_THE_POLICY = {"level", "alpha"}  # names of what judges pass: another test sees to it
Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True, order=True)
class Found:
    """A number in a judge's reach: the module, and the expression that it stands in; of a constant where that is defined, and its name."""

    module: str
    text: str


class Modules:
    """What modules define and import."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self.trees = {name: ast.parse(path.read_text("utf-8")) for name, path in paths.items()}
        self.imported = {
            name: {
                alias.asname or alias.name: (str(node.module), alias.name)
                for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
            }
            for name, tree in self.trees.items()
        }  # fmt: skip
        self.assigned = {name: dict(_assigned(tree)) for name, tree in self.trees.items()}
        self.defined = {name: list(_defined(tree)) for name, tree in self.trees.items()}
        self.beside = {
            name: {name} | {module for source in self.imported[name].values() for module in (source[0], self.home(*source)[0])} & set(self.trees)
            for name in self.trees
        }

    def home(self, module: str, name: str) -> tuple[str, str]:
        """The module that defines what a module calls by a name, and its name there."""
        if f"{module}.{name}" in self.trees:
            return f"{module}.{name}", name
        again = self.imported.get(module, {}).get(name)
        return self.home(*again) if again and again != (module, name) else (module, name)

    def numbers(self, module: str, value: ast.AST | None) -> bool:
        """Whether a value is made of numbers alone: one, several, or arithmetic with them."""
        match value:
            case ast.Constant():
                return type(value.value) in (int, float)
            case ast.Name():
                home, name = self.home(module, value.id)
                return self.numbers(home, self.assigned.get(home, {}).get(name))
            case ast.Tuple() | ast.List():
                return bool(value.elts) and all(self.numbers(module, part) for part in value.elts)
            case ast.Dict():
                return bool(value.values) and all(self.numbers(module, part) for part in value.values)
            case ast.Starred():
                return self.numbers(module, value.value)
            case ast.UnaryOp():
                return self.numbers(module, value.operand)
            case ast.BinOp():
                return self.numbers(module, value.left) and self.numbers(module, value.right)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="math"))):
                return all(self.numbers(module, part) for part in value.args)
        return False

    def reached(self) -> Iterator[tuple[str, Definition]]:
        """What judges call, with the module it is in."""
        todo = [(name, f) for name, own in self.defined.items() for _, start, f in own if start in ("judge", "decided")]
        seen: set[Definition] = set()
        while todo:
            name, definition = todo.pop()
            if definition in seen:
                continue
            seen.add(definition)
            yield name, definition
            if isinstance(definition, ast.ClassDef):
                continue
            called = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name)} | {n.attr for n in ast.walk(definition) if isinstance(n, ast.Attribute)}
            for other in self.beside[name]:
                for holder, own, inner in self.defined[other]:
                    made = own in ("", "__init__", "__post_init__") or (own == "of" and own in called)
                    if holder in called if made else own in called - {"cases", "attempt", "estimate"}:
                        todo.append((other, inner))


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """The constants of a module in capital letters."""
    for node in tree.body:
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        for target in node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []:
            several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            for one, own in zip(target.elts, value.elts, strict=True) if several else [(target, value)]:  # type: ignore[attr-defined, union-attr]
                if isinstance(one, ast.Name) and one.id.replace("_", "").isupper() and own is not None:
                    yield one.id, own


def _defined(tree: ast.Module) -> Iterator[tuple[str, str, Definition]]:
    """(class or "", name, definition) of functions; of a class, whose fields have defaults, (class, "", definition)."""
    for holder in ast.walk(tree):
        if not isinstance(holder, (ast.ClassDef, ast.Module)):
            continue
        owner = holder.name if isinstance(holder, ast.ClassDef) else ""
        functions = [f for f in holder.body if isinstance(f, ast.FunctionDef)]
        fields = {ast.unparse(field.target) for field in holder.body if isinstance(field, ast.AnnAssign)}
        if owner and ("ctx" in fields or any(f.name == "__init__" and _makes_trials(f) for f in functions)):
            continue
        yield from ((owner, f.name, f) for f in functions if not _makes_trials(f))
        if isinstance(holder, ast.ClassDef):
            yield owner, "", holder


def _makes_trials(function: ast.FunctionDef) -> bool:
    arguments = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    return "ctx" in arguments or any(isinstance(n, ast.Import) and n.names[0].name.split(".")[0] == "torch" for n in ast.walk(function))


def found(paths: Mapping[str, Path]) -> set[Found]:
    """The numbers in what judges call."""
    known = Modules(paths)
    hits = {hit for name, definition in known.reached() for hit in _of(known, name, definition)}
    return {Found(_short(hit.module), hit.text) for hit in hits}


def _short(module: str) -> str:
    return module.removeprefix("vlaudit.").removeprefix("attacks.")


def _of(known: Modules, module: str, definition: Definition) -> Iterator[Found]:
    if isinstance(definition, ast.ClassDef):
        for field in definition.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Constant) and ast.unparse(field.target) not in OF_THE_POLICY:
                yield from _in(known, module, field.value, ast.unparse(field))
        return
    arguments = definition.args
    defaults = [*zip(arguments.args[::-1], arguments.defaults[::-1], strict=False), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    for argument, default in defaults:
        if default is not None and argument.arg not in OF_THE_POLICY | SAMPLES:
            yield from _in(known, module, default, f"{definition.name}({ast.unparse(argument)}={ast.unparse(default)})")
    for line in definition.body:
        yield from _in(known, module, line, "")


def _in(known: Modules, module: str, node: ast.AST, around: str) -> Iterator[Found]:
    """``around``: the smallest expression that a number stands in."""
    parts = list(ast.iter_fields(node))
    match node:
        case ast.FunctionDef():
            yield from _of(known, module, node)
            return
        case ast.Constant():
            if type(node.value) in (int, float) and node.value not in (0, 1, 2) and node.value > 1e-6:
                yield Found(module, around)
        case ast.Name() if node.id.replace("_", "").isupper() and known.numbers(module, node):
            if node.id.strip("_").lower() not in SAMPLES:
                yield Found(*known.home(module, node.id))
        case ast.keyword() if node.arg in SAMPLES:
            return
        case ast.JoinedStr():
            return
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in SILENT:
            return
        case ast.Call(func=ast.Name(id="round")):
            parts = [("args", node.args[0])]
        case ast.BinOp(op=ast.Pow(), right=ast.Constant(value=0.5)):
            parts = [("left", node.left)]
        case ast.Subscript():
            parts = [("value", node.value)]
    if (isinstance(node, ast.expr) and not isinstance(node, (ast.UnaryOp, ast.Tuple, ast.List, ast.Starred))) or isinstance(node, (ast.Assign, ast.Return)):
        around = ast.unparse(node)
    for name, value in parts:
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST) and name not in ("annotation", "returns", "decorator_list"):
                yield from _in(known, module, part, around)


OURS = {name: path for name, path in modules().items() if name.startswith(FOLLOWED)}


def built_in(module: str) -> Mapping[str, BuiltIn]:
    found: Mapping[str, BuiltIn] = getattr(import_module(module), "BUILT_IN", {})
    return found


def unexplained(hits: set[Found]) -> list[Found]:
    full = {_short(name): name for name in OURS}
    return sorted(hit for hit in hits if hit.text not in EXCUSED.get(hit.module, {}) and not (hit.module in full and hit.text in built_in(full[hit.module])))


def test_no_judge_decides_by_a_number_of_its_own() -> None:
    assert not unexplained(found(OURS)), "make it a Threshold of the probe, list it in BUILT_IN of its module, or excuse it with the reason"


def test_nothing_is_excused_that_is_not_there() -> None:
    here = found(OURS)
    known = {module: {hit.text for hit in here if hit.module == module} for module in EXCUSED}
    assert not {module: gone for module, reasons in EXCUSED.items() if (gone := sorted(set(reasons) - known[module]))}


@pytest.mark.parametrize(("module", "name", "said"), [(module, name, said) for module in OURS for name, said in built_in(module).items()])
def test_what_is_built_in_is_there_and_has_a_source(module: str, name: str, said: BuiltIn) -> None:
    assert hasattr(import_module(module), name)
    assert len(said.meaning.split()) >= 4
    assert re.match(r"our choice, because |measured|arithmetic: |the usual convention", said.source) or re.search(r"arXiv:|\b(19|20)\d\d\b", said.source)


def test_no_judge_forgets_the_level() -> None:
    """A call that leaves out ``level`` or ``alpha`` goes by the function's own, whatever the policy says."""
    assert not sorted(forgotten(OURS))


def forgotten(paths: Mapping[str, Path]) -> Iterator[str]:
    """Calls of functions, in what judges call, without a level or an alpha that they have a default for."""
    known = Modules(paths)
    for module, definition in known.reached():
        for call in ast.walk(definition):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or any(isinstance(a, ast.Starred) for a in call.args):
                continue
            home, name = known.home(module, call.func.id)
            for owner, own, called in known.defined.get(home, []):
                if owner == "" and own == name and isinstance(called, ast.FunctionDef):
                    names = [argument.arg for argument in called.args.args]
                    optional = set(names[len(names) - len(called.args.defaults) :]) & OF_THE_POLICY
                    if optional - set(names[: len(call.args)]) - {keyword.arg for keyword in call.keywords}:
                        yield f"{_short(module)}: {ast.unparse(call)}"


PROBE = """
FEWEST, SHARE, DRAWS = 3, 1 / 3, 500
LIMITS = {"a": 0.3, "b": 0.5}
BUILT_IN = {"KNOWN": 1}
KNOWN = 7
def helper(n):
    return n >= 12
def eased(n, by=0.4):
    return n * by
def within(value, limit):
    return value < limit
def interval(n, level=0.95):
    return n
def made(ctx):
    return 3
class Bar:
    height: float = 0.6
def judge(n, share, rows, limit, policy, info, rng, level):
    LINE
"""


@pytest.mark.parametrize(("line", "seen"), [
    ("n < 0.3", True), ("n < FEWEST", True), ("helper(n)", True), ("eased(n)", True), ("within(n, 0.7)", True), ("within(n, SHARE)", True),
    ("0.2 * n", True), ("n ** 3", True), ("max(n, FEWEST)", True), ("return 0.4", True), ("x = 5", True), ("LIMITS['a'] < n", True), ("Bar()", True),
    ("min(n, 4)", True), ("[n for n in rows if n > 9]", True), ("round(n * 0.9, 3)", True), ("KNOWN + n", True), ("-5 < n", True), ("rng(n, shown=0.3, cut=9)", True),
    ("n < policy.threshold(info, LEAST.name)", False), ("share > policy.threshold(info)", False), ("rows[3] > limit", False), ("rows[:12]", False),
    ("n > 0", False), ("2 * policy.threshold(info)", False), ("round(n, 3)", False), ("n ** 0.5", False), ("max(n, 1e-9)", False), ("default_rng(7)", False),
    ("f'{n:.2f} of {100 * n}'", False), ("rng(DRAWS)", False), ("rng(n, resamples=200)", False), ("made(n)", False), ("1 - n", False), ("interval(n, level)", False),
])  # fmt: skip
def test_a_number_of_its_own_is_found(line: str, seen: bool, tmp_path: Path) -> None:
    module = tmp_path / "probe.py"
    module.write_text(PROBE.replace("LINE", line))
    assert bool(found({"vlaudit.attacks.probe": module})) is seen


def test_a_forgotten_level_is_found(tmp_path: Path) -> None:
    module = tmp_path / "probe.py"
    for line, count in (("interval(n)", 1), ("interval(n, level)", 0), ("interval(n, level=level)", 0), ("interval(*rows)", 0)):
        module.write_text(PROBE.replace("LINE", line))
        assert len(list(forgotten({"vlaudit.attacks.probe": module}))) == count, line
