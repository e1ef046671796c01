"""Does it work? The study of docs/study.md: decisions by year, the chain, the frozen configuration, tables, pictures.

    python -m studies FOLDER --provider-uri DIR [--jobs 2 | --ray [ADDRESS]]

FOLDER keeps factors (1 GB a year), scores, days, accounts, decisions.json, trials.parquet and mlruns.db; what is there
is not run again. `--tables` writes the page of what is there once the decisions stand, `--so-far` prints tables before
that; both run nothing. The provider has days from 2010 to 2022.
"""

import argparse
import logging
from pathlib import Path

import pandas as pd
import qlib

from studies import decisions, final, page, recorded
from studies.run import Study

LAST = pd.Timestamp(f"{decisions.CHAIN[-1]}-12-31")  # no return after it decides anything


def main() -> None:
    """Run what was not run, write what was found."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    asked.add_argument("folder", type=Path, help="of all that is kept")
    asked.add_argument("--provider-uri", required=True)
    asked.add_argument("--universe", default="all")
    asked.add_argument("--jobs", type=int, default=1, help="cells at once, 4 GB each")
    asked.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS", help="cells on Ray: of a cluster, or this machine"
    )
    asked.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs", help="where the page goes")
    asked.add_argument("--tables", action="store_true", help="run nothing, write the page of what is there")
    asked.add_argument("--so-far", action="store_true", help="run nothing, print the tables of what is there")
    wanted = asked.parse_args()
    jobs = 0 if wanted.tables else wanted.jobs
    study = Study(wanted.folder, wanted.provider_uri, wanted.universe, LAST, jobs, wanted.ray)
    study.folder.mkdir(parents=True, exist_ok=True)
    manager = recorded.uri(study)
    qlib.init(provider_uri=wanted.provider_uri, region="cn", logging_level=logging.WARNING, exp_manager=manager)
    if wanted.so_far:
        print(page.so_far(study))
        return
    made = decisions.chain(study)
    decisions.write(study.folder / "decisions.json", made)
    for year, (config, way, _) in made.items():
        print(f"{year}: {config.name}, {way}", flush=True)
    chosen = {year: (config, way) for year, (config, way, _) in made.items()}
    rows, later = final.rows(chosen), final.confirmed(chosen)
    if not wanted.tables:
        final.run_all(study, rows, later)
        every = [cell for row in [*final.trials(study), *sum(rows.values(), []), *later] for cell in row.cells()]
        print(f"recorded {recorded.record(study, every)} of {len(set(every))} cells", flush=True)
    page.write(study, made, rows, later, wanted.docs)


if __name__ == "__main__":
    main()
