"""The alert rules, as Prometheus' own tool judges them on recorded metrics, and their runbooks."""

import re
import subprocess

import pytest
import yaml

from tests.monitoring.queries import GUIDE, PACK, ROOT, rules
from tests.test_docs import anchors

CASES = ROOT / "tests" / "monitoring" / "alerts.yaml"
RULES = pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_rules() -> None:
    promtool("check", "rules", "--lint-fatal", str(PACK / "rules.yaml"))


def test_every_case_fires_or_does_not_as_it_says() -> None:
    promtool("test", "rules", str(CASES))


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires: set[str] = set()
    rests: set[str] = set()
    for case in yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else rests).add(check["alertname"])

    alerts = {rule["alert"] for rule in rules()}
    assert fires == alerts
    assert rests == alerts


def test_the_operators_object_holds_the_same_rules() -> None:
    kept = yaml.safe_load((PACK / "prometheus-rule.yaml").read_text(encoding="utf-8"))
    plain = yaml.safe_load((PACK / "rules.yaml").read_text(encoding="utf-8"))

    assert kept["spec"] == plain, "run: scripts/reference"


@RULES
def test_every_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    page, anchor = rule["annotations"]["runbook"].split("#")

    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description"} < set(rule["annotations"])
    assert ROOT / page == GUIDE
    assert anchor == str(rule["alert"]).lower()
    assert anchor in anchors(GUIDE)


def test_there_is_no_runbook_of_an_alert_that_is_gone() -> None:
    titles = re.findall(r"^### (Verger\w+)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)

    assert titles == [rule["alert"] for rule in rules()]
