"""What the examples in docstrings may use: `pytest --doctest-modules qlib_ext` puts these names beside them."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def small_market(request, doctest_namespace, tmp_path_factory):
    """Offer `provider` (a small embedded market that qlib is started on), `dataset` (a DayDatasetH) and its `panel`."""
    if not any(isinstance(item, pytest.DoctestItem) for item in request.session.items):
        return
    import qlib

    from qlib_ext.data import DayDatasetH
    from qlib_ext.synthetic import make_market

    provider = make_market(tmp_path_factory.mktemp("examples") / "market", n_stocks=12, start="2020-01-02", years=0.5)
    qlib.init(provider_uri=str(provider), region="cn")
    features = ["$close/Ref($close, 5) - 1", "$high/$low - 1"]
    loader = {"feature": (features, ["REV5", "RANGE"]), "label": (["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"])}
    config = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": loader}}
    handler = {
        "class": "DataHandlerLP",
        "module_path": "qlib.data.dataset.handler",
        "kwargs": {"instruments": "all", "start_time": "2020-02-03", "end_time": "2020-06-24", "data_loader": config},
    }
    segments = {
        "train": ("2020-02-03", "2020-04-30"),
        "valid": ("2020-05-06", "2020-05-29"),
        "test": ("2020-06-01", "2020-06-22"),
    }
    dataset = DayDatasetH(handler=handler, segments=segments, step_len=2, liquidity="auto", listing_age=0)
    doctest_namespace.update(provider=provider, dataset=dataset, panel=dataset.panel)


@pytest.fixture(autouse=True)
def on_the_small_market(request):
    """Start qlib on `provider` again where a test has started it on another market."""
    if isinstance(request.node, pytest.DoctestItem):
        import qlib
        from qlib.config import C

        provider = str(request.getfixturevalue("doctest_namespace")["provider"])
        if str(C.dpm.provider_uri.get("day", next(iter(C.dpm.provider_uri.values())))) != provider:
            qlib.init(provider_uri=provider, region="cn")
