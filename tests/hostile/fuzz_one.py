"""One harness under atheris, for tests/hostile/fuzz.py; the options are libFuzzer's.

python -m tests.hostile.fuzz_one HARNESS CORPUS [-option=value ...]
"""

import sys

import atheris

with atheris.instrument_imports(include=["actors", "service", "schemas"]):
    from tests.hostile.harnesses import HARNESSES

if __name__ == "__main__":
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], HARNESSES[name].feed)
    atheris.Fuzz()
