"""Text of the workflow that `init_workflow` writes; @NAME@ and the like are filled in."""

TEMPLATE = """\
# Written by `qlib-ext init` for one provider folder. Run it with: qrun FILE
# Train, valid and test, each "first day,last day"; no label of one part reaches into the next.
{% set train = "@TRAIN_DATES@" %}
{% set valid = "@VALID_DATES@" %}
{% set test = "@TEST_DATES@" %}
experiment_name: "@NAME@"
qlib_init:
  provider_uri: @PROVIDER@
  region: cn
  calendar_provider: {class: DemoCalendarProvider, module_path: qlib_ext.recorder}
  exp_manager:
    class: SqliteExpManager
    module_path: qlib_ext.recorder
    kwargs: {uri: "sqlite:///mlruns.db", default_exp_name: qlib_ext}
task:
  model:
@MODEL@
  dataset:
    class: DayDatasetH
    module_path: qlib_ext.data
    kwargs:
      handler:
        class: FastAlpha158
        module_path: qlib_ext.handler
        kwargs:
          start_time: "{{ train[:10] }}"
          end_time: "{{ test[-10:] }}"
          fit_start_time: "{{ train[:10] }}"
          fit_end_time: "{{ train[-10:] }}"
          instruments: @UNIVERSE@
          infer_processors:
            - {class: CSNormalise, module_path: qlib_ext.processor}
          learn_processors: []
          drop_raw: true
      segments:
        train: ["{{ train[:10] }}", "{{ train[-10:] }}"]
        valid: ["{{ valid[:10] }}", "{{ valid[-10:] }}"]
        test: ["{{ test[:10] }}", "{{ test[-10:] }}"]
      step_len: @WINDOW@
      liquidity: auto  # @PROFILE@
  record:
    - {class: SignalRecord, module_path: qlib.workflow.record_temp}
    - {class: SigAnaRecord, module_path: qlib.workflow.record_temp}
    - class: PortAnaRecord
      module_path: qlib_ext.record
      kwargs:
        config:
          strategy:
            class: LiquidityTopNStrategy
            module_path: qlib_ext.strategy
            kwargs:
              {signal: <PRED>, capital: 150000000, participation: 0.05, trade_participation: 0.05, rank_buffer: 2.0}
          backtest:
            start_time: "{{ test[:10] }}"
            end_time: "{{ test[-10:] }}"
            account: 150000000
            benchmark: @TRADED_BENCHMARK@
            exchange_kwargs:
              exchange:
                class: AShareExchange
                module_path: qlib_ext.exchange
                kwargs: {deal_price: close, participation: 0.05}
    - class: LiquidityRecord
      module_path: qlib_ext.record
      kwargs: {capital: 150000000, participation: 0.05, top_n: 30, benchmark: @BENCHMARK@}
    - {class: ReportRecord, module_path: qlib_ext.report_record}
"""

_TRAINING = """\
      dropout: 0.3
@NETWORK@      loss: liq_wpcc
      target: rank
      @METRIC@
      epochs: 12
      patience: 4
      lr: 0.0005
      batch_days: 4
      seed: 0"""


def _model(name: str, network: str) -> str:
    """Write a model's part of the workflow."""
    head = f"    class: {name}\n    module_path: qlib_ext.model\n    kwargs:\n"
    return head + _TRAINING.replace("@NETWORK@", network)


MODELS = {
    "master": {
        "WINDOW": "8",
        "MODEL": _model("MASTERModel", "      d_model: 64\n      attention_dropout: 0.0\n"),
    },
    "mlp": {"WINDOW": "1", "MODEL": _model("MLPModel", "")},
}
