"""What is run once the decisions stand: the chain, the frozen configuration, and it with one thing changed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from studies.cells import LOSSES, MEMBERS, WAYS, Config
from studies.decisions import CHAIN, FIRST, SEEDS
from studies.delistings import KINDS
from studies.run import ALL, Cell, Study, day, run

EVERY_SEED = (*range(MEMBERS), ALL)
IMPACTS, CAPITALS = (1 / 3, 2 / 3, 1.0), (50e6, 150e6, 500e6)  # b; yuan
DRAWS = 5  # of synthetic delistings
LATER = 2022  # seen in earlier work: run once, when all is frozen
Way = tuple[Config, str]


@dataclass(frozen=True)
class Row:
    """A line of a table: by year what is traded how, and the seeds.

    Attributes:
        name: of the line.
        by_year: year -> configuration, way.
        seeds: of them.
        more: fields of `Cell`.
    """

    name: str
    by_year: Mapping[int, Way]
    seeds: tuple[int, ...] = tuple(range(MEMBERS))
    more: tuple[tuple[str, object], ...] = ()

    def cells(self) -> list[Cell]:
        """All that it needs."""
        return [cell for seed in self.seeds for cell in self._of(seed)]

    def _of(self, seed: int) -> list[Cell]:
        return [
            Cell(config, year, seed, way, **dict(self.more)) for year, (config, way) in sorted(self.by_year.items())
        ]

    def frames(self, study: Study) -> list[pd.DataFrame]:
        """Read its days, a frame a seed."""
        return [pd.concat([day(study, cell) for cell in self._of(seed)]) for seed in self.seeds]

    def there(self, study: Study) -> "Row":
        """Keep the seeds that all was run of."""
        return replace(
            self, seeds=tuple(seed for seed in self.seeds if all(cell.done(study.folder) for cell in self._of(seed)))
        )


def rows(chosen: Mapping[int, Way]) -> dict[str, list[Row]]:
    """All lines of the tables after the decisions, by table.

    Args:
        chosen: year -> configuration and way, the last year that of the frozen ones.
    """
    frozen, way = chosen[max(chosen)]
    network = replace(frozen, kind="mlp", blend="")  # the cheapest of its kind, to change one thing of
    chain = {year: chosen[year] for year in CHAIN}
    still = dict.fromkeys(CHAIN, (frozen, way))
    head = [
        Row("chain", chain),
        Row("chain, mean of the seeds", chain, (ALL,)),
        Row("frozen (selected)", still),
        Row("frozen (selected), mean of the seeds", still, (ALL,)),
    ]
    return {
        "headline": head,
        "money": [
            Row(f"{who}|{b:.2f}|{capital / 1e6:.0f}", by_year, (ALL,), (("b", b), ("capital", capital)))
            for who, by_year in (("chain", chain), ("frozen", still))
            for b in IMPACTS
            for capital in CAPITALS
        ],
        "deck": _deck(network, way),
        "trading": [Row(name, dict.fromkeys(CHAIN, pair)) for name, pair in traded(frozen, way).items()],
        "changed": [
            Row(name, dict.fromkeys(CHAIN, (config, way)))
            for name, config in {"the network": network, **changed(network)}.items()
        ],
        "delisted": [
            Row(f"{kind}{bought}|{draw}", still, (ALL,), (("market", f"{kind}{bought}, {draw}"),))
            for kind in KINDS
            for bought in ("", " bought")
            for draw in range(DRAWS)
        ],
    }


def changed(network: Config) -> dict[str, Config]:
    """List a network with one thing changed, by name, the dearest last."""
    options: dict[str, Iterable[object]] = {
        "loss": [*LOSSES],
        "horizon": (1, 5, 10, 20),
        "factors": ("alpha158", "daily", "daily_alone", "survivors"),
        "years": (2, 3),
        "gap": (0, 1, 2),
        "kind": ("mlp", "lightgbm", "mlp+lightgbm", "master", "mlp+lightgbm+master"),
    }
    made = {
        f"{field}: {value}": replace(network, **{field: value}) for field, values in options.items() for value in values
    }
    return different(made, network)


def different(options: Mapping[str, Config], base: Config) -> dict[str, Config]:
    """Leave out what is the base, or another option, under another name: trees know two losses."""
    seen, kept = [base.members], {}
    for name, config in options.items():
        if config.members not in seen:
            seen.append(config.members)
            kept[name] = config
    return kept


def traded(frozen: Config, way: str) -> dict[str, Way]:
    """List the frozen configuration, without its second score, and traded in other ways."""
    alone = {"without its second score": (replace(frozen, blend=""), way)} if frozen.blend else {}
    return {"frozen": (frozen, way), **alone} | {f"way: {other}": (frozen, other) for other in WAYS if other != way}


def _deck(network: Config, way: str) -> list[Row]:
    """Set the deck's protocol beside walk-forward, on the same days."""
    liq = Config(loss="liq_wpcc", horizon=1)
    pairs = {
        "LIQ-WPCC, next day, hv-blocked folds of two years": (replace(liq, years=1, folds=True), "judge"),
        "LIQ-WPCC, next day, walk-forward, two years before": (replace(liq, years=2), "judge"),
        "LIQ-WPCC, next day, walk-forward": (liq, "judge"),
        "the network, hv-blocked folds of two years": (replace(network, years=1, folds=True), way),
        "the network, walk-forward, two years before": (replace(network, years=2), way),
        "the network, walk-forward": (network, way),
    }
    return [Row(name, dict.fromkeys(CHAIN, pair), SEEDS) for name, pair in pairs.items()]


def run_all(study: Study, made: Mapping[str, list[Row]], later: Iterable[Row]) -> None:
    """Run what the tables need, by few seeds before all, MASTER, six times as dear, last; the headline at once."""
    run(study, [cell for row in made["headline"] for cell in row.cells()])
    to_its_end = replace(study, last=pd.Timestamp(f"{LATER}-12-31"))  # returns count to the end of the year after
    run(to_its_end, [cell for row in later for cell in row.cells()])
    for seeds in ((*SEEDS, ALL), EVERY_SEED):
        for dear in (False, True):
            for group in made.values():
                own = [cell for row in group for cell in row.cells() if cell.seed in seeds]
                run(study, [cell for cell in own if ("master" in cell.config.kind) == dear])


def confirmed(chosen: Mapping[int, Way]) -> list[Row]:
    """List the rows of the frozen configuration in the year after the chain."""
    return [
        Row("frozen", {LATER: chosen[max(chosen)]}),
        Row("frozen, mean of the seeds", {LATER: chosen[max(chosen)]}, (ALL,)),
    ]


def trials(study: Study) -> list[Row]:
    """Every configuration and way that was looked at by walk-forward, on the years and seeds that it was run for."""
    found, seen = [], []
    for folder in sorted((study.folder / "accounts").iterdir()):
        config = Config.read(folder.name)
        if config.members in seen:  # the same under another name
            continue
        seen.append(config.members)
        for way in sorted(path.name for path in folder.iterdir() if "=" not in path.name):
            done = {
                seed: [year for year in range(FIRST, CHAIN[-1] + 1) if Cell(config, year, seed, way).done(study.folder)]
                for seed in SEEDS
            }
            years = done[SEEDS[0]]
            if years and not config.folds:
                seeds = tuple(seed for seed in SEEDS if done[seed] == years)
                found.append(Row(f"{config.name}, {way}", dict.fromkeys(years, (config, way)), seeds))
    return found
