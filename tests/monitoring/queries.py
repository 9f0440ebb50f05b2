"""The queries of the operations pack, and the names in them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from service.metrics import Metrics, render

ROOT = Path(__file__).parents[2]
PACK = ROOT / "k8s" / "monitoring"
GUIDE = ROOT / "docs" / "operate.md"
OF_THE_TARGET = {"namespace", "instance", "job"}
"""Labels that Prometheus gives to what it scrapes; elsewhere than on Kubernetes it leaves out the namespace."""

_METRIC = re.compile(r"\b(?:verger|process)_\w+")
_MATCHERS = re.compile(r"(\w+)\{([^}]*)\}")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_LABELS = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PACK / "dashboard.json").read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    """Those with queries."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    content = yaml.safe_load((PACK / "rules.yaml").read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Where each is, and the query as Prometheus gets it."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']} {target['refId']}", filled(target["expr"])
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]


def filled(query: str) -> str:
    """As Grafana fills it in when everything is chosen."""
    query = query.replace("$namespace", ".*").replace("$type", ".*").replace("$__rate_interval", "1m")
    assert "$" not in query, query
    return query


def exposed() -> dict[str, set[str]]:
    """Series → its labels, of all that the code exposes."""
    found: dict[str, set[str]] = {}
    for metric in Metrics():
        if metric.kind == "histogram":
            found |= {f"{metric.name}_{part}": set(metric.labels) for part in ("sum", "count")}
            found[f"{metric.name}_bucket"] = {*metric.labels, "le"}
        else:
            found[metric.name] = set(metric.labels)
    page = render(Metrics()).decode()
    return found | {name: set() for name in re.findall(r"^(process_\w+) ", page, re.MULTILINE)}


def faults(query: str) -> list[str]:
    """Metrics and labels that a query names and the code does not expose."""
    known = exposed()
    bare = re.sub(r'"[^"]*"', '""', query)
    names = set(_METRIC.findall(bare))
    wrong = [f"no metric {name}" for name in sorted(names - set(known))]
    for name, matchers in _MATCHERS.findall(bare):
        if name in known:
            wrong += [
                f"{name} has no label {label}"
                for label in _LABEL.findall(matchers)
                if label not in known[name] | OF_THE_TARGET
            ]
    there = OF_THE_TARGET.union(*(known.get(name, set()) for name in names))
    for labels in _LABELS.findall(bare):
        wrong += [f"nothing here has a label {label}" for label in re.findall(r"\w+", labels) if label not in there]
    return wrong
