"""``verger schedules import-crontab``: what cron ran, as a schedules file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.schedule_file import file_from
from tests.actors.cli.conftest import Answer, good, verger

COMMAND = ("schedules", "import-crontab")
TYPED = ("--type", "shell.run", "--timezone", "UTC")


def imported(crontab: str, *options: str) -> Answer:
    return verger(*COMMAND, "-", *options, given=crontab)


def entries(crontab: str, *options: str) -> list[dict[str, Any]]:
    """Of a crontab all of whose lines can be carried over."""
    answer = imported(crontab, *(options or TYPED))
    assert answer.code == 0, answer.err
    file_from(answer.json)
    found: list[dict[str, Any]] = answer.json["schedules"]
    return found


def mapping(folder: Path, commands: Any) -> tuple[str, str]:
    path = folder / "map.json"
    path.write_text(json.dumps(commands))
    return "--map", str(path)


def test_a_crontab_becomes_a_schedules_file() -> None:
    answer = imported(
        "# m h dom mon dow command\n"
        "SHELL=/bin/bash\n"
        "MAILTO=ops@example.org\n"
        "\n"
        "30 2 * * mon-fri  /usr/local/bin/report --all >/dev/null 2>&1\n"
        "@daily /usr/local/bin/clean\n",
        "--type",
        "shell.run",
        "--timezone",
        "Europe/Berlin",
    )

    shell = {"SHELL": "/bin/bash"}
    where = {"enabled": False, "timezone": "Europe/Berlin"}
    assert answer.json["schedules"] == [
        {
            "id": "report",
            "task_type": "shell.run",
            "schedule": "30 2 * * mon-fri",
            "args": {"command": "/usr/local/bin/report --all >/dev/null 2>&1", "environment": shell},
            **where,
        },
        {
            "id": "clean",
            "task_type": "shell.run",
            "schedule": "@daily",
            "args": {"command": "/usr/local/bin/clean", "environment": shell},
            **where,
        },
    ]
    assert (answer.code, answer.err) == (
        0,
        "What --map does not name is disabled: look at it, then say so in the file.\n",
    )


@pytest.mark.parametrize(
    ("line", "schedule"),
    [
        ("*/5 * * * * x", "*/5 * * * *"),
        ("0\t4   8-14 * *\tx", "0 4 8-14 * *"),
        ("5 4 1,15 jan-jun sun x", "5 4 1,15 jan-jun sun"),
        ("0 22 13 * fri x", "0 22 13 * fri"),
        ("0 0 * * 7 x", "0 0 * * 7"),
        ("10-50/20 0-23/2 * * 1-5 x", "10-50/20 0-23/2 * * 1-5"),
        ("-*/15 * * * * x", "*/15 * * * *"),
        ("   0 6 * * * x", "0 6 * * *"),
        ("@midnight x", "@midnight"),
        ("@every_minute x", "* * * * *"),
    ],
)
def test_times_are_carried_over_as_they_are(line: str, schedule: str) -> None:
    assert entries(line)[0]["schedule"] == schedule


def test_either_day_is_enough_if_both_are_restricted_and_both_must_match_if_one_begins_with_a_star() -> None:
    """As cron has it, and our schedules too."""
    window = ("--from", "2026-11-01", "--to", "2026-12-01", "--json")
    days = {}
    for text in ("0 0 13 * fri", "0 0 */2 * fri", "0 0 13 * *"):
        (entry,) = entries(f"{text} x")
        fires = good("schedules", "explain", "--schedule", entry["schedule"], *window).json["fires"]
        days[text] = [int(fire["at"][8:10]) for fire in fires]

    assert days == {"0 0 13 * fri": [6, 13, 20, 27], "0 0 */2 * fri": [13, 27], "0 0 13 * *": [13]}


def test_zones_hold_for_the_lines_below_them_and_nothing_says_a_zone_that_was_taken_for_granted() -> None:
    answer = imported(
        '0 1 * * * a\nCRON_TZ=Europe/Berlin\n0 2 * * * b\nCRON_TZ = "Asia/Tokyo"\n0 3 * * * c\n', "--type", "x"
    )

    assert [each.get("timezone", "UTC") for each in answer.json["schedules"]] == ["UTC", "Europe/Berlin", "Asia/Tokyo"]
    assert "The times are taken as UTC. Cron means those of its machine: --timezone says which." in answer.err
    assert "taken as UTC" not in imported("CRON_TZ=Asia/Tokyo\n0 1 * * * a", "--type", "x").err


def test_settings_are_the_commands_of_the_lines_below_them_but_those_that_are_for_cron() -> None:
    found = entries(
        "0 1 * * * a\nPATH=/bin:/opt/bin\nGREETING = ' hello '\nMAILTO=\"\"\n0 2 * * * b\nPATH=/bin\n1 2 * * * A=1 c"
    )

    assert [each["args"] for each in found] == [
        {"command": "a"},
        {"command": "b", "environment": {"PATH": "/bin:/opt/bin", "GREETING": " hello "}},
        {"command": "A=1 c", "environment": {"PATH": "/bin", "GREETING": " hello "}},
    ]
    assert [each["id"] for each in found] == ["a", "b", "c"]


def test_what_stands_behind_a_percent_sign_is_what_the_command_reads() -> None:
    found = entries(r"0 1 * * * mail -s 'it is \%done' ops%Dear all,%%100\% well." + "\n0 2 * * * date +\\%F\n")

    assert [each["args"] for each in found] == [
        {"command": "mail -s 'it is %done' ops", "stdin": "Dear all,\n\n100% well."},
        {"command": "date +%F"},
    ]


def test_the_systems_format_has_a_user(tmp_path: Path) -> None:
    folder = tmp_path / "cron.d"
    folder.mkdir()
    (folder / "job").write_text("17 * * * * root cd / && run-parts /etc/cron.hourly\n@daily www-data  clean up\n")
    shutil.copy(folder / "job", tmp_path / "job")

    by_folder = good(*COMMAND, str(folder / "job"), *TYPED).json
    by_option = good(*COMMAND, str(tmp_path / "job"), *TYPED, "--system").json
    as_a_users = good(*COMMAND, str(folder / "job"), *TYPED, "--user").json

    assert by_folder == by_option
    assert [each["args"] for each in by_folder["schedules"]] == [
        {"command": "cd / && run-parts /etc/cron.hourly", "user": "root"},
        {"command": "clean up", "user": "www-data"},
    ]
    wrong = imported("0 1 * * * /bin/x -y\n", *TYPED, "--system")
    assert "line 1: user: '/bin/x' is no user's name; give --user if the lines have none" in wrong.err
    assert as_a_users["schedules"][1]["args"] == {"command": "www-data  clean up"}


def test_a_map_says_which_task_stands_for_which_command(tmp_path: Path) -> None:
    commands = {
        "/opt/backup --full": {"task_type": "sessions.backup", "args": {"keep": 7}, "id": "nightly", "jitter": "5m"},
        "*/backup *": "sessions.backup",
        "certbot*": None,
    }
    crontab = "0 1 * * * /opt/backup --full\n0 2 * * * /opt/backup --quick\n0 3 * * * certbot renew\n0 4 * * * other\n"

    found = entries(crontab, *mapping(tmp_path, commands), "--type", "shell.run")
    strict = imported(crontab, *mapping(tmp_path, commands))

    assert found[0] == {
        "id": "nightly",
        "task_type": "sessions.backup",
        "schedule": "0 1 * * *",
        "args": {"keep": 7},
        "enabled": True,
        "jitter": "5m",
    }
    assert [(each["id"], each["task_type"], each["enabled"]) for each in found] == [
        ("nightly", "sessions.backup", True),
        ("backup", "sessions.backup", True),
        ("other", "shell.run", False),
    ]
    assert strict.code == 1
    assert strict.json["schedules"] == found[:2]
    assert (
        "line 4: command: 'other' stands for no task type; name it in --map, or give --type\n" in strict.err
        and strict.err.endswith("1 of 3 are missing.\n")
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("@reboot x", "schedule: '@reboot' is no time; run it where the machine, or the pod, starts"),
        ("@fortnightly x", "schedule: '@fortnightly' is not known; there are: @yearly"),
        ("0 25 * * * x", "schedule.hour: '25' is outside 0-23"),
        ("0 0 31 2 * x", "names a date that never comes"),
        ("0 0 * * fri-mon x", "schedule.day-of-week: 'FRI-MON' runs backwards"),
        (
            "5/15 * * * * x",
            "schedule: '5/15' has a step without a range, which each cron reads its own way; write 5, or",
        ),
        ("*/90 * * * * x", "schedule.minute: '*/90' has a step outside 1-60"),
        ("0~59 * * * * x", "schedule.minute: '0~59' is not understood"),
        ("0 0 * * *", "is too short; write when to run, and the command"),
        ("hello", "is too short"),
        ("CRON_TZ=Europe/Berlyn", "timezone: 'Europe/Berlyn' is not a known time zone; did you mean Europe/Berlin?"),
    ],
)
def test_what_cannot_be_carried_over_is_named_and_the_rest_is_there(line: str, said: str) -> None:
    answer = imported(f"0 1 * * * before\n{line}\n0 2 * * * after\n", *TYPED)

    assert answer.code == 1
    assert [each["id"] for each in answer.json["schedules"]] == ["before", "after"]
    assert any(each.startswith("line 2: ") and said in each for each in answer.err.splitlines()), answer.err
    assert "line 1:" not in answer.err and "line 3:" not in answer.err


def test_programs_that_run_several_times_have_ids_of_their_own() -> None:
    found = entries("0 1 * * * /a/run.sh x\n0 2 * * * /b/run.sh\n0 3 * * * [ -x /c ] && /c\n0 4 * * * run.sh\n")

    assert [each["id"] for each in found] == ["run.sh", "run.sh-2", "command", "run.sh-3"]


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        ([], "is not an object"),
        ({"x": 1}, "--map: 'x' is mapped to neither text, an object nor null"),
        (
            {"x": {"task_typ": "a"}},
            "line 1: task_typ: 'task_typ' is no key of a schedules file; did you mean task_type?",
        ),
        ({"x": {"args": {}}}, "line 1: task_type: '' is missing"),
        ({"x": {"task_type": "a", "schedule": "0 99 * * *"}}, "line 1: schedule.hour: '99' is outside 0-23"),
        ({"*": {"task_type": "a", "id": "same"}}, "line 2: id: 'same' is that of another line"),
    ],
)
def test_what_is_wrong_with_a_map_is_said(tmp_path: Path, commands: Any, said: str) -> None:
    answer = imported("0 1 * * * x\n0 2 * * * y\n", *mapping(tmp_path, commands))

    assert answer.code == 1
    assert said in answer.err


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "map.json").write_text("{")

    assert "FILE: '/nowhere/crontab' cannot be read: No such file" in verger(*COMMAND, "/nowhere/crontab").err
    assert "is not UTF-8" in verger(*COMMAND, str(tmp_path / "binary")).err
    assert "--map: '/nowhere/map' cannot be read" in imported("", "--map", "/nowhere/map").err
    assert "is no JSON" in imported("", "--map", str(tmp_path / "map.json")).err
    assert "timezone: 'Mars/Olympus' is not a known time zone" in imported("", "--timezone", "Mars/Olympus").err


@pytest.mark.usefixtures("instance")
def test_what_is_printed_can_be_applied(tmp_path: Path) -> None:
    commands = {"hello": {"task_type": "cli.echo", "args": {"text": "hello"}}}
    made = imported("@hourly hello\n", *mapping(tmp_path, commands), "--timezone", "Europe/Berlin")

    answer = good("schedules", "apply", "-", "--source", "crontab", given=made.out)

    assert "+ hello  cli.echo  @hourly  next: 20" in answer.out
