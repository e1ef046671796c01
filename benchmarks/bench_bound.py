"""Compute what `oracle.json` tells of the default embedded market's bound (some minutes): `qlib_ext.synthetic.bound`.

    python -m benchmarks.bench_bound [PROVIDER] [--first 2022-01-04] [--last 2022-12-23] [--capital 150e6]
        [--participation 0.05] [--b 1]

Prints it as JSON, and whether `oracle.json` has the same: exit status 1 if not. PROVIDER: another embedded market,
which is simulated again by its parameters; its `oracle.json` has none.
"""

import argparse
import json
import sys

from qlib_ext.synthetic import DEFAULT_BOUND, bound, bound_of, read_oracle, simulate


def main() -> int:
    """Compute, print, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("provider", nargs="?", help="an embedded market; by default the default one")
    for name in ("first", "last", "capital", "participation", "b"):
        value = DEFAULT_BOUND[name]
        parser.add_argument(f"--{name}", type=type(value), default=value)
    asked = vars(parser.parse_args())
    provider = asked.pop("provider")
    market = simulate(**(read_oracle(provider)["parameters"] if provider else {}))
    facts = bound(market, **asked)
    print(json.dumps(facts, indent=2))
    same = bound_of(market.parameters)
    if same is None or any(same[name] != value for name, value in asked.items()):
        return 0
    print(f"oracle.json has {'the same' if facts == same else same}")
    return int(facts != same)


if __name__ == "__main__":
    sys.exit(main())
