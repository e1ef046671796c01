"""Words of the page: names of keys, and the Chinese of these and of its texts. Private to `report`."""

# ruff: noqa: E501 (Chinese counts twice)

KINDS = {  # how a column is written: the first kind with its name, or with the part at an edge of it
    "count": (
        *("days", "names", "names_held", "unreached_names", "count", "cuts", "trades", "stocks", "fold", "seed"),
        *("n_train", "n_valid", "n_test", "best_epoch", "shares"),
    ),
    "ratio": ("sharpe", "sharpe_arithmetic", "t", "volatility_exposure"),
    "bp": ("bp",),
    "yuan": (
        *("yuan", "wanted", "dealt", "cut", "cost", "commission", "transfer", "stamp_duty", "impact", "lost"),
        *("target", "buy", "sell"),
    ),
    "percent": (
        *("return", "annual", "annual_return_arithmetic", "annual_volatility", "max_drawdown", "cumulative", "gross"),
        *(
            "net",
            "net_impact",
            "excess",
            "daily_excess_error",
            "share",
            "participation",
            "cash",
            "change",
            "gone",
            "difference",
        ),
        *("low", "high", "one_way", "two_way", "unknown", "unreached", "held", "turnover"),
    ),
}

LABELS = {
    "mean_ic": "mean IC", "mean_return": "cumulative return", "annual_return": "annual return",
    "annual_return_arithmetic": "annual return, arithmetic", "annual_volatility": "annual volatility",
    "sharpe": "Sharpe", "sharpe_arithmetic": "Sharpe, arithmetic", "max_drawdown": "maximal drawdown",
    "capped": "capital in full", "topn": "first n stocks", "buyable": "buyable", "paper": "on paper",
    "money.gross": "gross", "money.net": "net of fees", "money.net_impact": "net of fees and impact",
    "money.net_over_market": "net of fees, less the universe mean",
    "selected": "what was chosen on these days", "model": "this run's model",
    "value": "value", "standard_error": "standard error", "t": "t", "days": "days", "first": "first day", "last": "last day",
    "ic": "IC", "icir": "ICIR", "rank_ic": "RankIC", "rank_icir": "RankICIR", "ic_error": "error of IC",
    "rank_ic_error": "error of RankIC", "top20_ic": "IC of the top fifth", "precision_top": "precision of the top",
    "precision_chance": "precision by chance", "precision_top_paper": "precision of the top, on paper",
    "precision_chance_paper": "precision by chance, on paper", "top20_mse": "squared error of the top fifth",
    "top20_mse_fitted": "squared error of the top fifth, fitted",
    "capped_cash_share": "cash", "capped_names_held": "stocks held", "volatility_exposure": "exposure to volatility",
    "exposure.volatility": "volatility", "exposure.liquidity": "liquidity (size)", "exposure.reversal": "reversal",
    "mean": "mean", "standard_deviation": "standard deviation", "min": "least", "max": "most",
    "mean over folds": "mean over folds", "all out-of-fold days": "all out-of-fold days", "test": "test",
    "reversal": "5-day reversal", "low_volatility": "low volatility", "small_turnover": "small turnover",
    "lightgbm": "LightGBM", "fold": "fold", "seed": "seed", "best_epoch": "chosen epoch", "best_value": "its value",
    "metric": "metric", "n_train": "training days", "n_valid": "validation days", "n_test": "test days",
    "train_start": "training from", "train_end": "training to", "valid_start": "validation from",
    "valid_end": "validation to", "test_start": "test from", "test_end": "test to",
    "commission": "commission", "transfer": "transfer fee", "stamp_duty": "stamp duty", "impact": "market impact",
    "yuan": "yuan", "cuts": "cuts", "stocks": "stocks", "buy": "buy", "sell": "sell",
    "gross": "gross", "net": "net of fees", "net_impact": "net of fees and impact",
    "gross_excess": "gross, in excess", "net_excess": "net of fees, in excess",
    "net_impact_excess": "net of fees and impact, in excess", "cash_share": "cash", "names": "stocks", "names_held": "stocks held",
    "turnover": "turnover", "participation": "participation", "net_impact_excess_se": "its standard error",
    "unknown_stock": "unknown stock", "not_listed": "not listed yet", "suspended": "suspended", "delisted": "delisted",
    "limit_up": "locked at limit-up", "limit_down": "locked at limit-down", "limit_unknown": "limit not known",
    "unknown_liquidity": "liquidity not known", "unknown_volatility": "volatility not known",
    "volume_cap": "cap on the share of turnover", "volume_threshold": "volume threshold", "t_plus_1": "bought the same day (T+1)",
    "not_held": "not held", "cash": "cash", "below_lot": "less than a lot",
    "stage.paper": "on paper", "stage.buyable": "only what can be bought", "stage.account": "one account", "stage.limits": "limits, suspensions, lots, T+1", "stage.price": "the run's deal price", "stage.buffer": "rank buffer, holding period",
    "stage.caps": "caps on a day's trade", "stage.costs": "fees", "stage.impact": "market impact (the run itself)",
    "annual": "annual return", "cumulative": "cumulative return", "step": "difference to the row before",
    "rule": "rule", "scope": "scope", "market": "market", "effective_from": "from", "effective_to": "to", "text": "text",
    "source": "source", "difference": "difference", "low": "95% from", "high": "95% to",
    "against": "the other run", "change": "difference to the row before",
    "bp_of_traded": "of what was traded (basis points)", "share_a_year": "of the account a year", "share": "share",
    "trades": "trades", "wanted": "wanted (yuan)", "cut": "cut (yuan)", "one_way": "one-way", "two_way": "two-way",
    "performance": "The account's return", "performance.gross": "before costs", "performance.net": "after all costs",
    "performance.excess_gross": "before costs, less the benchmark", "performance.excess_net": "after all costs, less the benchmark", "target_reached": "How far the target was reached",
    "liquidation": "Days to sell the book", "excess_gross": "gross, in excess", "excess_net": "net of fees, in excess",
    "benchmark": "benchmark", "daily_excess": "mean daily excess", "daily_excess_error": "its standard error",
    "daily_return": "mean daily return", "wpcc": "weighted correlation", "liq_wpcc": "weighted correlation, by label and liquidity",
    "net_over_market": "net of fees, less the universe mean", "total": "total", "day": "day", "code": "code", "kind": "kind",
    "shares": "shares (number)", "cost": "fees (yuan)", "lost": "written off (yuan)", "median": "median", "worst": "worst",
    "mean_days": "days, mean", "max_days": "days, slowest stock", "share_reached": "share reached", "unreached": "not reached",
    "unreached_names": "stocks not reached", "held": "in stocks", "unknown": "turnover not known", "delisting": "delisting", "share_below_zero": "draws at or below 0",
}  # fmt: skip

ZH = {
    # the frame of the page
    "Numbers of one run, as its records wrote them": "单次运行的数字，与各记录所写完全一致",
    "Several runs on the same days": "多个运行在相同日期上的对比",
    "dark / light": "深色 / 浅色", "Show all rows": "显示全部行", "What the columns mean": "各列含义",
    "What the rows mean": "各行含义", "costs are not known": "费用未知", "no costs": "不含费用",
    "no days; universe: {universe}": "没有交易日；股票池：{universe}", "note": "注意",
    "{n} days, {first} to {last}; universe: {universe}": "{n} 个交易日，{first} 至 {last}；股票池：{universe}",
    "no costs, no caps": "不含费用，无上限约束", "the capital is not known": "资金规模未知",
    # headline
    "The deck's table": "总表（幻灯片口径）", "± {error:.4f} (Newey-West)": "± {error:.4f}（Newey-West）",
    "mean over days": "各日均值", "universe mean": "股票池均值", "less the universe mean": "减股票池均值",
    "less {base}": "减 {base}", "mean IC": "平均 IC", "cumulative return": "累计收益", "annual return": "年化收益",
    "annual return, arithmetic": "年化收益（算术）", "annual volatility": "年化波动率", "Sharpe": "夏普比率",
    "Sharpe, arithmetic": "夏普比率（算术）", "maximal drawdown": "最大回撤", "capital in full": "资金足额配置",
    "first n stocks": "前 n 只", "buyable": "可买入", "on paper": "纸面", "gross": "费前", "net of fees": "扣费后",
    "net of fees and impact": "扣费及冲击成本后", "net of fees, less the universe mean": "扣费后减股票池均值",
    "what was chosen on these days": "在这些日期上做过的选择", "this run's model": "本次模型",
    # curves
    "Cumulative return and drawdown": "累计收益与回撤", "day of the signal": "信号日", "day of the trade": "成交日",
    "cumulative return (%)": "累计收益（%）", "drawdown (%)": "回撤（%）", "{name}: drawdown": "{name}：回撤",
    "Daily returns compounded, cash earns 0; a difference to a market or index is compounded from daily differences. "
    "Below: the fall from the highest point so far, the start included. Click a name to show or hide it; drag to "
    "zoom.":
        "按日复利，现金收益为 0；相对市场或指数的差额按每日差额复利。下图：自此前最高点（含起点）的跌幅。点击名称显示或隐藏，拖动可放大。",
    # correlation
    "IC and RankIC": "IC 与 RankIC", "correlation (1)": "相关系数（1）", "mean correlation (1)": "平均相关系数（1）", "month": "月份",
    "{name}, mean of {days} days": "{name}，{days} 日均值", "{name}, mean of {days} days (1)": "{name}，{days} 日均值（1）",
    "Correlation of score and label across the day's stocks.": "当日各股票得分与标签的相关系数。",
    "Error bars: standard deviation / sqrt(days).": "误差线：标准差 / sqrt(天数)。", "value": "数值",
    "standard error": "标准误", "days": "天数", "first day": "首日", "last day": "末日", "error of IC": "IC 误差",
    "error of RankIC": "RankIC 误差", "IC of the top fifth": "前五分之一的 IC", "precision of the top": "头部命中率",
    "precision by chance": "随机命中率", "precision of the top, on paper": "头部命中率（纸面）",
    "precision by chance, on paper": "随机命中率（纸面）", "squared error of the top fifth": "前五分之一的平方误差",
    "squared error of the top fifth, fitted": "前五分之一的平方误差（拟合）",
    # quantiles
    "Returns by quantile of the score": "按得分分组的收益", "quantile of the score, 1 = lowest": "得分分组，1 为最低",
    "mean label a day (basis points)": "日均标签收益（基点）", "mean label": "平均标签收益", "quantile {name}": "第 {name} 组",
    "summed label less the mean of all (%)": "标签收益累加，减各组均值（%）",
    "Mean label by quantile of the score; error bars: Newey-West standard error of the mean over days.":
        "各得分分组的平均标签收益；误差线：各日均值的 Newey-West 标准误。",
    "Mean label by quantile of the score; error bars: Newey-West standard error, the label's days, not recorded, taken as "
    "1.": "各得分分组的平均标签收益；误差线：Newey-West 标准误，标签天数未记录，按 1 日计。",
    "Equal weight within a quantile, no caps; sums, not compounded.": "组内等权，无上限约束；累加，不复利。",
    "Equal weight within a quantile, no caps; sums, not compounded; the label's days, not recorded, taken as 1.":
        "组内等权，无上限约束；累加，不复利；标签天数未记录，按 1 计。",
    "Equal weight within a quantile, no caps; sums, not compounded, of label / {n}, as labels of {n} days overlap.":
        "组内等权，无上限约束；标签 / {n} 累加，不复利：{n} 日标签相互重叠。",
    "mean label over {n} days (basis points)": "{n} 日标签均值（基点）",
    # exposures
    "Exposures of the score": "得分的风险暴露", "rank correlation, mean of {days} days (1)": "秩相关系数，{days} 日均值（1）",
    "Rank correlation of score and factor across the day's stocks: what the score is a bet on.":
        "当日各股票得分与因子的秩相关：得分实际押注于什么。",
    "volatility": "波动率", "liquidity (size)": "流动性（规模）", "reversal": "反转", "mean": "均值",
    "standard deviation": "标准差", "least": "最小", "most": "最大", "exposure to volatility": "波动率暴露",
    # learning and folds
    "Learning curves": "学习曲线", "epoch": "轮次", "loss (1)": "损失（1）", "training": "训练", "validation": "验证",
    "fold {fold}, seed {seed}: ": "折 {fold}，种子 {seed}：", "chosen": "选中",
    "{n} members; in training and on their validation days; no costs": "{n} 个成员；训练中及其验证日上的表现；不含费用",
    "A colour and a dash a member. Thin: training loss, thick: validation loss; below: the metric on validation days; star: its best epoch.":
        "每个成员一种颜色与线型。细线：训练损失，粗线：验证损失；下图：验证日上的指标；星号：其最佳轮次。",
    "{name}, on validation days (1)": "{name}，验证日（1）", "{name}, on validation days (%)": "{name}，验证日（%）",
    "mean daily return": "日均收益", "weighted correlation": "加权相关系数",
    "weighted correlation, by label and liquidity": "加权相关系数（标签乘流动性）",
    "Folds": "各折", "fold": "折", "fold {fold}": "折 {fold}", "trading day": "交易日", "train": "训练", "gap": "间隔",
    "valid": "验证", "test": "测试", "mean over folds": "各折均值", "all out-of-fold days": "全部折外日期",
    "Training, gap, validation and test days of each fold; a thin gap may be narrower than a pixel.":
        "每折的训练、间隔、验证与测试日；较窄的间隔可能不足一个像素。",
    "seed": "种子", "chosen epoch": "选中轮次", "its value": "其数值", "metric": "指标", "training days": "训练天数",
    "validation days": "验证天数", "test days": "测试天数", "training from": "训练起", "training to": "训练止",
    "validation from": "验证起", "validation to": "验证止", "test from": "测试起", "test to": "测试止",
    # baselines and gate
    "Free scores on the same days": "相同日期上的免费得分", "5-day reversal": "5 日反转", "low volatility": "低波动",
    "small turnover": "小成交额", "What the gate selects": "门控的选择", "feature": "特征", "weight (1)": "权重（1）",
    "The features whose weight is furthest from 1 on average; 1: as a network without the gate has it.":
        "平均而言权重离 1 最远的特征；1：与无门控的网络相同。", "{n} features": "{n} 个特征",
    "market feature": "市场特征", "rank correlation": "秩相关系数", "weight where it is low": "其低位时的权重",
    "weight where it is high": "其高位时的权重",
    "The market feature whose rank correlation with the weight, over these days, is largest.":
        "这些日期上与该权重的秩相关系数（绝对值）最大的市场特征。",
    "That rank correlation; described on the days it was chosen on, so no test.":
        "该秩相关系数；在选出它的同一批日期上计算，不构成检验。",
    "Mean weight on the third of the days on which that market feature is lowest.": "该市场特征最低的三分之一日期上的平均权重。",
    "Mean weight on the third of the days on which that market feature is highest.": "该市场特征最高的三分之一日期上的平均权重。",
    # holdings
    "Where the money went": "资金去向", "stocks (number)": "股票数（只）", "cash (% of capital)": "现金（占资金 %）",
    "day": "日期", "Stocks held and cash left over by the caps, each day.": "每日持股数与因上限而剩余的现金。",
    "{million:,.0f} million yuan each day, placed in full under the caps, what cannot be bought stays cash":
        "每日 {million:,.0f} 百万元，在上限内足额配置，买不到的部分为现金",
    "share of its liquidity": "占该股流动性比例", "largest share of its liquidity": "占该股流动性的最大比例", "Not held on this day.": "当日未持有。",
    "Not among the {n} largest holdings of this day, which are those in the page.": "不在当日前 {n} 大持仓之列（页面仅含这些持仓）。",
    "Share of its liquidity: yuan / trailing mean turnover of the stock, known on the day of the signal. Search a stock to see it whatever its rank.":
        "占该股流动性比例：持有金额 / 该股此前平均成交额（信号日已知）。按代码查找可显示任意名次的持仓。",
    "Search a stock by its code": "按代码查找股票", "yuan": "元", "share of capital": "占资金比例", "days held": "持有天数",
    "mean yuan": "平均持有（元）", "largest share of capital": "最大占比", "gain (yuan)": "收益（元）", "Stocks": "股票",
    "The {n} largest holdings of the day": "当日前 {n} 大持仓", "cash": "现金", "stocks held": "持股数",
    "Every stock ever held (the first 200 found). Gain: yuan times label summed over its days, before costs; labels of "
    "several days overlap, and the gain is divided by their number.":
        "曾持有的全部股票（显示前 200 个结果）。收益：各日持有金额乘标签之和，未扣费用；多日标签相互重叠，收益除以其天数。",
    # backtest
    "Backtest: account, turnover, costs": "回测：账户、换手与费用", "account before costs": "账户（费前）",
    "account after costs": "账户（费后）", "account after costs, less the benchmark": "账户（费后）减基准", "benchmark": "基准",
    "qlib's account of the run's own strategy: orders over days, real cash, under the exchange's rules.":
        "qlib 对本次策略的账户记录：订单跨日执行，真实现金，遵守交易所规则。",
    "Bought plus sold each day, and what it cost, as shares of the account's value the day before.":
        "每日买入加卖出及其费用，占前一日账户价值的比例。",
    "traded (% of the account)": "成交（占账户 %）", "costs (% of the account)": "费用（占账户 %）", "turnover (%)": "换手（%）",
    "costs (%)": "费用（%）", "mean a day": "日均", "a year (252 days)": "每年（252 日）",
    "costs of the exchange are in where it says so": "注明处已含交易费用",
    "Costs and participation": "费用与参与率", "cost (yuan)": "费用（元）", "commission": "佣金", "transfer fee": "过户费",
    "stamp duty": "印花税", "market impact": "冲击成本", "of what was traded (basis points)": "占成交额（基点）",
    "share of the stock's liquidity (%)": "占该股流动性（%）", "fills (number)": "成交数（笔）",
    "What the fills of each month cost, by part.": "每月成交的费用构成。",
    "Yuan of each fill / trailing mean turnover of the stock, known the day before.":
        "每笔成交金额 / 该股此前平均成交额（前一日已知）。",
    "{low:.1%} to {high:.1%}": "{low:.1%} 至 {high:.1%}", "above {low:.1%}": "高于 {low:.1%}", "above": "高于", "up to": "至",
    "{n} fills, {million:,.1f} million yuan traded": "{n} 笔成交，共 {million:,.1f} 百万元",
    # waterfall, capacity
    "From paper to the account": "从纸面到账户", "what is taken into account": "计入的因素", "return a year (%)": "年化收益（%）",
    "Every row adds one assumption to the row before it.": "每一行在前一行基础上增加一项假设。",
    "costs as each row says": "费用见各行", "only what can be bought": "仅可买入者",
    "limits, suspensions, lots, T+1": "涨跌停、停牌、手数、T+1", "the run's deal price": "本次运行的成交价", "caps on a day's trade": "单日成交上限", "fees": "费用",
    "market impact (the run itself)": "冲击成本（即本次运行）", "difference to the row before": "与前一行之差",
    "Capacity": "容量", "capital (million yuan)": "资金（百万元）", "a year (%)": "每年（%）", "cash (%)": "现金（%）",
    "The same scores with other capitals, filled down the ranking under the caps, traded daily; cash earns 0.":
        "相同得分、不同资金规模，按排名在上限内依次配置，每日调仓；现金收益为 0。",
    "The same in a fixed number of names, in proportion to their liquidity: a smaller share of their turnover at a smaller capital.":
        "同样的得分，固定只数，按流动性比例配置：资金越小，占成交额的比例越低。",
    "{million:,.0f} million yuan": "{million:,.0f} 百万元", "gross, in excess": "费前超额", "net of fees, in excess": "扣费后超额",
    "net of fees and impact, in excess": "扣费及冲击后超额", "stocks": "股票数", "turnover": "换手", "participation": "参与率",
    "its standard error": "其标准误",
    # blocked
    "What was blocked, and why": "未成交部分及原因", "not dealt (yuan)": "未成交（元）",
    "Yuan of orders that the exchange cut or refused, by reason.": "被交易所削减或拒绝的订单金额，按原因。",
    "The exchange cut no order.": "交易所未削减任何订单。", "Delisted holdings": "退市持仓",
    "with the orders that the strategy, which asks first, did not send": "含策略事先询问后未发出的订单",
    "cuts": "削减次数", "buy": "买入", "sell": "卖出", "unknown stock": "未知股票", "not listed yet": "尚未上市",
    "suspended": "停牌", "delisted": "退市", "locked at limit-up": "涨停封板", "locked at limit-down": "跌停封板",
    "limit not known": "涨跌停未知", "liquidity not known": "流动性未知", "volatility not known": "波动率未知",
    "cap on the share of turnover": "成交占比上限", "volume threshold": "成交量阈值", "bought the same day (T+1)": "当日买入（T+1）",
    "not held": "未持有", "less than a lot": "不足一手",
    "Execution": "执行", "the backtest's account": "回测账户", "Trading rules in force": "适用的交易规则", "{n} records": "{n} 条记录",
    "rule": "规则", "scope": "范围", "market": "市场", "from": "起", "to": "止", "text": "原文", "source": "来源",
    "one account": "单一账户", "rank buffer, holding period": "排名缓冲与最短持有", "of the account a year": "占账户，每年",
    "before costs": "费前", "after all costs": "扣除全部费用后", "before costs, less the benchmark": "费前减基准",
    "after all costs, less the benchmark": "扣除全部费用后减基准", "share": "占比", "trades": "笔数", "wanted (yuan)": "委托（元）", "cut (yuan)": "削减（元）", "one-way": "单边", "two-way": "双边",
    "The account's return": "账户收益", "How far the target was reached": "目标达成程度", "Days to sell the book": "清仓所需天数",
    "mean daily excess": "日均超额", "days, mean": "平均天数", "days, slowest stock": "最慢股票的天数", "share reached": "达成比例",
    "not reached": "未达成", "stocks not reached": "未达成股票数", "in stocks": "股票部分", "turnover not known": "成交额未知",
    "delisting": "退市", "total": "合计", "code": "代码", "kind": "方式", "shares (number)": "股数（股）", "fees (yuan)": "费用（元）",
    "written off (yuan)": "核销（元）", "median": "中位数", "worst": "最差", "sold after {n} days (%)": "{n} 日内可卖出（%）",
    # sentences of records
    "test {first} to {last}: nothing was selected on it by this run": "测试期 {first} 至 {last}：本次运行未在其上做任何选择",
    "nothing was selected on it; epochs were chosen by {metric} on days before it": "未在其上做任何选择；轮次按 {metric} 在此前的日期上选定",
    "nothing was selected on it; epochs were chosen by {metric} on the blocks": "未在其上做任何选择；轮次按 {metric} 在各块上选定",
    "epoch chosen on this block by {metric}: optimistic": "轮次按 {metric} 在本块上选定：偏乐观",
    "epochs chosen on these blocks by {metric}: optimistic": "轮次按 {metric} 在这些块上选定：偏乐观",
    "epochs chosen on these days, block by block, by {metric}: optimistic": "轮次按 {metric} 在这些日期上逐块选定：偏乐观",
    "{n} stocks given by code": "按代码给定的 {n} 只股票",
    "days to sell all at {share} of each stock's mean daily turnover, weighted by yuan held; stocks whose turnover is "
    "not known are left out": "按各股日均成交额的 {share} 全部卖出所需天数，按持有金额加权；成交额未知的股票不计",
    # header
    "not recorded": "未记录", "none": "无", "none, the universe mean alone": "无，仅用股票池均值",
    "experiment": "实验", "run": "运行", "started": "开始时间", "loss": "损失函数", "target": "目标",
    "weights by": "权重依据", "seeds": "随机种子", "features": "特征", "label": "标签", "data": "数据", "universe": "股票池",
    "train and valid": "训练与验证", "capital": "资金", "costs": "费用", "liquidity": "流动性", "rules": "规则", "units": "单位",
    "versions of this page": "生成本页的版本", "model": "模型", "versions": "运行时的版本", "device": "计算设备", "days used": "实际使用的交易日", "backtest": "回测",
    "{seeds} ({n} members)": "{seeds}（{n} 个成员）", "{name} {first} – {last} ({n} days)": "{name} {first} – {last}（{n} 天）", "{days}, in {n} folds": "{days}，共 {n} 折", "auto, its outcome not recorded": "auto，结果未记录", "(version not recorded)": "（版本未记录）", "at most {share:.1%} of a stock's turnover a day": "每日不超过个股成交额的 {share:.1%}", "no cap on a day's share of turnover": "不限制每日成交占比",
    "account {million:,g} million yuan, dealt at {price}, {cap}; buys pay {buy}, sells {sell}; impact: {impact:g} × volatility × (share of turnover) ^ {power:g} a trade; benchmark: {benchmark}": "账户 {million:,g} 百万元，按 {price} 成交，{cap}；费用：买入 {buy}，卖出 {sell}；冲击：每笔 {impact:g} × 波动率 × (成交占比) ^ {power:g}；基准：{benchmark}", "a series of its own": "自带的收益序列", "{rate:.3%} and transfer fee": "{rate:.3%} 及过户费", "{rate:.3%}, transfer fee and stamp duty": "{rate:.3%}、过户费与印花税",
    "{million:,.0f} million yuan, at most {participation:.1%} of a stock's liquidity":
        "{million:,.0f} 百万元，不超过个股流动性的 {participation:.1%}",
    "money in yuan, returns as per cent of the capital unless a day's account is named":
        "金额为元，收益为资金的百分比（注明账户者除外）",
    "trailing mean turnover in yuan, unit profile {profile}": "此前平均成交额（元），单位口径 {profile}",
    "net: commission {commission:.3%} each way, transfer fee and stamp duty of the day; net of impact: also "
    "{impact:g} × volatility × sqrt(share of turnover) a trade":
        "扣费：双边佣金 {commission:.3%}，当日过户费与印花税；扣冲击：另加每笔 {impact:g} × 波动率 × sqrt(成交占比)",
    "net: {buy:.3%} of buys and {sell:.3%} of sells; net of impact: also {impact:g} × volatility × sqrt(share of turnover) "
    "a trade": "扣费：买入 {buy:.3%}，卖出 {sell:.3%}；扣冲击：另加每笔 {impact:g} × 波动率 × sqrt(成交占比)",
    "marina-rules {version}; {n} records cited below": "marina-rules {version}；引用 {n} 条记录，见下",
    "marina-rules {version}": "marina-rules {version}",
    # comparison
    "the runs differ in {name}: {values}": "各运行的{name}不同：{values}", "{run}: {value}": "{run}：{value}", "{name} {value}": "{name} {value}",
    "the names differ in the number of runs; a mean over more of them swings less: {values}":
        "各名称包含的运行数不同；运行越多，其均值波动越小：{values}",
    "{run} stands for {n} runs, of which some have the same seed: {values}": "{run} 代表 {n} 个运行，其中有相同的随机种子：{values}",
    "mean over {n} runs": "{n} 个运行的均值", "{run}: daily mean over {n} runs, drawn anew in each draw": "{run}：{n} 个运行的逐日均值，每次抽样重新抽取运行",
    "A colour a run, a dash a series.": "每个运行一种颜色，每个序列一种线型。",
    "Differences, day by day": "逐日配对差异", "The same table for all": "同一张总表", "The same curves for all": "同一组曲线",
    "{run} less {against}": "{run} 减 {against}", "difference": "差异", "95% from": "95% 区间下限", "95% to": "95% 区间上限",
    "circular block bootstrap of the days: {draws} draws of blocks of {block} days, seed {seed}; the days of all runs "
    "are drawn together": "按日循环分块自助法：{draws} 次抽样，每块 {block} 日，种子 {seed}；各运行的日期一同抽取",
    "the other run": "对照运行", "draws at or below 0": "抽样中不大于 0 的比例", "days left out": "未计入的日期",
    "{n} days that not all runs have": "{n} 个并非所有运行都有的日期",
}  # fmt: skip

SAID = (  # sentences of records that are stored as text; their Chinese stands in ZH
    "test {first} to {last}: nothing was selected on it by this run",
    "nothing was selected on it; epochs were chosen by {metric} on days before it",
    "nothing was selected on it; epochs were chosen by {metric} on the blocks",
    "epoch chosen on this block by {metric}: optimistic",
    "epochs chosen on these blocks by {metric}: optimistic",
    "epochs chosen on these days, block by block, by {metric}: optimistic",
    "{n} stocks given by code",
    "days to sell all at {share} of each stock's mean daily turnover, weighted by yuan held; stocks whose turnover is "
    "not known are left out",
)
