"""Method cards: pages on networks, remedies, metrics, interventions, made of the docstrings.

A card cannot drift from the program: its name is the registry's, its text the class's docstring,
its options the class's fields with the registry's numbers.
"""

import ast
import dataclasses
import inspect
import textwrap
from pathlib import Path
from typing import Any

from plasticity.learning.remedy import Remedy

FOLDER = Path(__file__).parent / "methods"


def field_texts(kind: type[Any]) -> dict[str, str]:
    """Return the docstring of each field of a dataclass, from its source and its parents'."""
    texts: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(parent):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(parent))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


def card(name: str, value: Any, option: str, remark: str = "") -> str:
    """Return a registered dataclass's card: its docstring, a remark, a table of its options."""
    kind = type(value)
    lines = [f"## `{name}`", "", "```{eval-rst}", *_docstring(kind), "```", ""]
    if remark:
        lines += [remark, ""]
    fields = dataclasses.fields(value)
    if fields:
        texts = field_texts(kind)
        lines += ["| option | value | meaning |", "|---|---|---|"]
        for field in fields:
            said = f"--{option}{field.name.replace('_', '-')}"
            number = getattr(value, field.name)
            shown = " ".join(map(str, number)) if isinstance(number, tuple) else number
            lines.append(f"| `{said}` | {shown} | {texts.get(field.name, '')} |")
        lines.append("")
    lines += [f"Source: `{kind.__module__}.{kind.__qualname__}`.", ""]
    return "\n".join(lines)


def remedy_card(name: str, remedy: Remedy) -> str:
    """Return the card of a remedy: also whether it is told where tasks begin, and its tuning."""
    option = f"ARM+{name}.{name}."
    told = "**is told** where tasks begin" if remedy.sees_tasks else "is not told where tasks begin"
    by = "the learning rate of the arm's optimizer"
    if remedy.tuned:
        tries = ", ".join(f"{value:g}" for value in remedy.tries)
        by = f"`--{option}{remedy.tuned.replace('_', '-')}`: {tries}"
    return card(name, remedy, option, f"This remedy {told}. `study --tune` varies {by}.")


def metric_card(name: str, metric: Any) -> str:
    """Return the card of a metric: when it is due, and its function's docstring."""
    function = metric.fn or metric.prepare.__self__
    due = {"before": "Before a task's first update", "during": "During a task's first epoch"}
    when = due.get(metric.when, "After a task's last update")
    every = ", at tasks 0, 1, 2, 4, 8, ... and every `--measure-every` tasks" * metric.sparse
    return "\n".join(
        [
            f"## `{name}`", "", f"{when}{every}.", "", "```{eval-rst}", *_docstring(function),
            "```", "", f"Source: `{function.__module__}.{function.__qualname__}`.", "",
        ]
    )  # fmt: skip


def intervention_card(name: str, intervention: Any) -> str:
    """Return the card of an intervention: its docstring, how it is named, and its options."""
    kind = type(intervention)
    fields = [field.name for field in dataclasses.fields(intervention)]
    typed = ":".join([name, *(field.upper() for field in fields)])
    lines = [f"## `{name}`", "", f"`{typed}`", "", "```{eval-rst}", *_docstring(kind), "```", ""]
    if fields:
        texts = field_texts(kind)
        lines += ["| option | left out | meaning |", "|---|---|---|"]
        lines += [f"| {f.upper()} | {getattr(intervention, f)} | {texts[f]} |" for f in fields]
        lines.append("")
    lines += [f"Source: `{kind.__module__}.{kind.__qualname__}`.", ""]
    return "\n".join(lines)


def _docstring(thing: Any) -> list[str]:
    from sphinx.ext.napoleon import Config, GoogleDocstring

    # Bars are those of absolute values, not of substitutions.
    text = (inspect.getdoc(thing) or "").replace("|", "\\|")
    config = Config(napoleon_use_ivar=True)
    return str(GoogleDocstring(text, config, what="class")).splitlines()


def write(app: Any = None) -> None:
    """Write the pages, before Sphinx looks for them."""
    from plasticity.interventions import INTERVENTIONS
    from plasticity.metrics import METRICS
    from plasticity.networks import NETWORKS
    from plasticity.remedies import REMEDIES
    from plasticity.rl.protocol import REMEDIES as OF_POLICIES

    FOLDER.mkdir(exist_ok=True)
    pages = {
        "networks": (
            "Networks",
            "Each name is the name of an arm: `--arms NAME`. A preset may have other values.",
            [card(name, value, f"{name}.") for name, value in NETWORKS.items()],
        ),
        "remedies": (
            "Remedies",
            "You add a remedy to an arm after a plus sign: `--arms mlp+NAME`. Its options are "
            "`--mlp+NAME.NAME.OPTION`. A remedy that is told where tasks begin knows more than the "
            "others: a learner in the world is seldom told. Compare it with its like.",
            [remedy_card(name, remedy) for name, remedy in REMEDIES.items()],
        ),
        "policies": (
            "Remedies of policies",
            "These are for `python -m experiments.ant`: `--arms mlp+NAME`. Their options are "
            "`--mlp+NAME.NAME.OPTION`.",
            [card(name, value, f"ARM+{name}.{name}.") for name, value in OF_POLICIES.items()],
        ),
        "metrics": (
            "Metrics",
            "You measure a metric during training with `--metrics NAME`, or afterwards with "
            "`python -m experiments.measure RUN --metrics NAME`. Its column has its name. If it "
            "has several columns, their names begin with its name and an underscore. If a value "
            "is undefined, the row has no column for it.",
            [metric_card(name, metric) for name, metric in METRICS.items()],
        ),
        "interventions": (
            "Interventions",
            "What `python -m experiments.diagnose RUN --interventions NAME ...` does once to a "
            "copy of an aged learner. Options follow after colons: `rate:first:2`. A plus sign "
            "joins several that act one after another: `turns:3+unwind`. [Diagnose a "
            "network](../diagnose.md) says what each shows.",
            [intervention_card(name, value) for name, value in INTERVENTIONS.items()],
        ),
    }
    for name, (title, text, cards) in pages.items():
        page = "\n".join([f"# {title}", "", text, "", *cards])
        file = FOLDER / f"{name}.md"
        if not file.exists() or file.read_text() != page:  # an older file is built again
            file.write_text(page)


def without_substitutions(app: Any, what: str, name: str, thing: Any, of: Any, lines: list) -> None:
    """Take bars as they are: in a docstring |x| is an absolute value, and never a substitution."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith(">>>"):
            parts = line.split("``")  # every other one is code
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            lines[number] = "``".join(parts)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", write, priority=100)
    app.connect("autodoc-process-docstring", without_substitutions, priority=100)
    return {"parallel_read_safe": True}
