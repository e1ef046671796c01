"""qlib's own models as its published workflows configure them, small: a task each, with one line of it changed."""

from copy import deepcopy

COLUMNS = (
    "RESI5 WVMA5 RSQR5 KLEN RSQR10 CORR5 CORD5 CORR10 ROC60 RESI10 VSTD5 RSQR60 CORR60 WVMA60 STD5 RSQR20 CORD60 "
    "CORD10 CORR20 KLOW"
).split()
SEGMENTS = {
    "train": ["2020-04-01", "2020-07-31"],
    "valid": ["2020-08-03", "2020-09-30"],
    "test": ["2020-10-08", "2020-11-30"],
}
LABEL = ["Ref($close, -2) / Ref($close, -1) - 1"]
SCALED = [
    {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", "clip_outlier": True}},
    {"class": "Fillna", "kwargs": {"fields_group": "feature"}},
]
CHOSEN = [{"class": "FilterCol", "kwargs": {"fields_group": "feature", "col_list": COLUMNS}}, *SCALED]
RANKED = [{"class": "DropnaLabel"}, {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}}]
MLP = {
    "infer_processors": [
        {"class": "DropCol", "kwargs": {"col_list": ["VWAP0"]}},
        {"class": "CSZFillna", "kwargs": {"fields_group": "feature"}},
    ],
    "learn_processors": [
        {"class": "DropCol", "kwargs": {"col_list": ["VWAP0"]}},
        {"class": "DropnaProcessor", "kwargs": {"fields_group": "feature"}},
        "DropnaLabel",
        {"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}},
    ],
    "process_type": "independent",
}
NEEDS = {"pytorch_nn": {"scheduler": None}}  # what qlib's own code needs to run with a torch of today
DNN = {"max_steps": 20, "batch_size": 200, "pt_model_kwargs": {"input_dim": 157}, "GPU": -1}
NET = {"hidden_size": 8, "num_layers": 1, "dropout": 0.0, "n_epochs": 1, "early_stop": 1, "metric": "loss", "GPU": -1}
TCN = {"num_layers": 2, "n_chans": 8, "kernel_size": 3, "dropout": 0.0, "n_epochs": 1, "batch_size": 200, "GPU": -1}
FORMER = {"d_model": 8, "nhead": 2, "num_layers": 1, "n_epochs": 1, "batch_size": 200, "seed": 0, "GPU": -1}
PRETRAINED = {"hidden_size": 64, "num_layers": 2}  # the sizes of the LSTM that GATs begins from
SAMPLES = {"batch_size": 200, "n_jobs": 0}
TRA = {
    "tra_config": {"num_states": 3, "hidden_size": 4, "tau": 1.0, "src_info": "LR_TPE"},
    "model_config": {"input_size": 20, "hidden_size": 8, "num_layers": 1, "rnn_arch": "LSTM", "use_attn": True},
    "model_type": "RNN", "n_epochs": 1, "max_steps_per_epoch": 5, "seed": 0, "lamb": 1.0, "rho": 1.0,
    "transport_method": "router", "memory_mode": "sample", "pretrain": False,
}  # fmt: skip
MTS = {"seq_len": 20, "horizon": 2, "num_states": 3, "batch_size": 200, "memory_mode": "sample", "drop_last": True}

ROWS = {"class": "DatasetH", "module_path": "qlib.data.dataset"}
WINDOWS = {"class": "TSDatasetH", "module_path": "qlib.data.dataset", "kwargs": {"step_len": 20}}
MEMORY = {"class": "MTSDatasetH", "module_path": "qlib.contrib.data.dataset", "kwargs": MTS}
MINE = {  # the line that changes
    "DatasetH": "qlib_ext.data.DayDatasetH",
    "TSDatasetH": "qlib_ext.data.DayDatasetH",
    "MTSDatasetH": "qlib_ext.data.MTSDayDatasetH",
}

ALPHA158, ALPHA360 = ("Alpha158", CHOSEN, RANKED), ("Alpha360", SCALED, RANKED)
MODELS = {  # module of qlib.contrib.model -> class, options, data set, handler
    "gbdt": ("LGBModel", {"num_boost_round": 5, "num_threads": 1, "seed": 0}, ROWS, ("Alpha158", None, None)),
    "xgboost": ("XGBModel", {"eta": 0.1, "max_depth": 3, "nthread": 1}, ROWS, ("Alpha158", None, None)),
    "pytorch_nn": ("DNNModelPytorch", DNN, ROWS, ("Alpha158", MLP, None)),
    "pytorch_lstm": ("LSTM", {"d_feat": 6, "batch_size": 200} | NET, ROWS, ALPHA360),
    "pytorch_alstm": ("ALSTM", {"d_feat": 6, "batch_size": 200} | NET, ROWS, ALPHA360),
    "pytorch_gru": ("GRU", {"d_feat": 6, "batch_size": 200} | NET, ROWS, ALPHA360),
    "pytorch_tcn": ("TCN", {"d_feat": 6} | TCN, ROWS, ALPHA360),
    "pytorch_transformer": ("TransformerModel", {"d_feat": 6} | FORMER, ROWS, ALPHA360),
    "pytorch_gats": ("GATs", {"d_feat": 6, "base_model": "LSTM"} | NET | PRETRAINED, ROWS, ALPHA360),
    "pytorch_lstm_ts": ("LSTM", {"d_feat": 20} | NET | SAMPLES, WINDOWS, ALPHA158),
    "pytorch_alstm_ts": ("ALSTM", {"d_feat": 20} | NET | SAMPLES, WINDOWS, ALPHA158),
    "pytorch_gru_ts": ("GRU", {"d_feat": 20} | NET | SAMPLES, WINDOWS, ALPHA158),
    "pytorch_tcn_ts": ("TCN", {"d_feat": 20, "n_jobs": 0} | TCN, WINDOWS, ALPHA158),
    "pytorch_transformer_ts": ("TransformerModel", {"d_feat": 20, "n_jobs": 0} | FORMER, WINDOWS, ALPHA158),
    "pytorch_gats_ts": ("GATs", {"d_feat": 20, "base_model": "LSTM", "n_jobs": 0} | NET, WINDOWS, ALPHA158),
    "pytorch_tra": ("TRAModel", TRA, MEMORY, ("Alpha158", CHOSEN, RANKED[1:])),
}  # fmt: skip


def task(module, *, ours=True, **more):
    """The task of a model: as published, or with the class of its data set changed to ours; more options of it."""
    name, options, dataset, (handler, infer, learn) = deepcopy(MODELS[module])
    days = {"start_time": "2020-01-02", "end_time": "2020-11-30"}
    fitted = {"fit_start_time": "2020-01-02", "fit_end_time": SEGMENTS["train"][1], "instruments": "all"}
    processors = infer if isinstance(infer, dict) else {"infer_processors": infer, "learn_processors": learn}
    own = days | fitted | {"label": LABEL} | {k: v for k, v in processors.items() if v is not None}
    config = {"class": handler, "module_path": "qlib.contrib.data.handler", "kwargs": own}
    dataset["kwargs"] = {"handler": config, "segments": SEGMENTS} | dataset.get("kwargs", {})
    if ours:
        dataset["class"] = MINE[dataset["class"]]
    return {
        "model": {"class": name, "module_path": f"qlib.contrib.model.{module}", "kwargs": options | more},
        "dataset": dataset,
        "record": [
            {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
            {"class": "LiquidityRecord", "module_path": "qlib_ext.record"},
        ],
    }
