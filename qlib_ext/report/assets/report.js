"use strict";
(function () {
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);
  const read = (id) => ($(id) ? JSON.parse($(id).textContent) : null);
  // a page shown inside a sandbox (the mlflow UI) may have no storage
  const stored = (key) => { try { return window.localStorage.getItem(key); } catch (error) { return null; } };
  const store = (key, value) => { try { window.localStorage.setItem(key, value); } catch (error) { return; } };
  const charts = Array.from(document.querySelectorAll(".chart"));
  const coarse = window.matchMedia("(pointer: coarse)").matches;
  let printing = false;

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const dark = () => root.dataset.theme === "dark" ||
    (!root.dataset.theme && window.matchMedia("(prefers-color-scheme: dark)").matches);

  function translated(value, words) {
    if (typeof value === "string") { return words[value] === undefined ? value : words[value]; }
    if (Array.isArray(value)) { return value.map((item) => translated(item, words)); }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, key === "bdata" ? item : translated(item, words)]));
    }
    return value;
  }

  const wide_of = (text) => Array.from(text).reduce((sum, c) => sum + (c > "\u2e80" ? 12 : 6.4), 0);
  function broken(text, room) {
    if (wide_of(text) <= room) { return text; }
    const parts = /[\u2e80-\uffff]/.test(text) ? Array.from(text) : text.split(/(?<= )/);
    const lines = [""];
    parts.forEach((part) => {
      if (lines[lines.length - 1] && wide_of(lines[lines.length - 1] + part) > room) { lines.push(""); }
      lines[lines.length - 1] += part;
    });
    return lines.join("<br>");
  }

  // what is drawn: the figure of the page in the page's language and colours
  function dressed(chart) {
    const figure = read("json-" + chart.dataset.chart);
    const words = root.dataset.language === "zh" && figure.layout.meta ? figure.layout.meta.zh || {} : {};
    const made = { data: translated(figure.data, words), layout: translated(figure.layout, words) };
    const narrow = chart.clientWidth < 560;
    const layout = made.layout;
    Object.assign(layout, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { color: colour("--ink"), size: narrow ? 11 : 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      dragmode: coarse ? false : "zoom",
    });
    if (printing) { Object.assign(layout, { autosize: false, width: 680 }); }
    // room for the legend below the axis title: grouped names follow each other, others stand in columns of the longest
    if (narrow) {  // little room: no names of lines that are not shown, no numbers on bars
      made.data.filter((trace) => trace.visible === "legendonly").forEach((trace) => { trace.showlegend = false; });
      made.data.filter((trace) => trace.type === "waterfall").forEach((trace) => { trace.textposition = "none"; });
    }
    const named = made.data.filter((trace) => trace.showlegend !== false && trace.name);
    const most = (printing ? 680 : chart.clientWidth) - 70;
    named.forEach((trace) => { trace.name = broken(trace.name, most); });
    const more = named.reduce((sum, trace) => sum + trace.name.split("<br>").length - 1, 0);
    if (named.length > 1 && layout.legend) {
      const widths = named.map((trace) => 46 + Math.max(...trace.name.split("<br>").map(wide_of))), longest = Math.max(...widths);
      const room = (printing ? 680 : chart.clientWidth) - layout.margin.l - layout.margin.r;
      const grouped = named.some((trace) => trace.legendgroup);
      let rows = 1, used = 0;
      (grouped || widths.reduce((sum, one) => sum + one, 0) < room ? widths : widths.map(() => longest)).forEach((one) => {
        if (used && used + one > room) { rows += 1; used = 0; }
        used += one;
      });
      const row = grouped ? 25 : 20;
      layout.margin = Object.assign({}, layout.margin, { b: 54 + row * rows + 16 * more });
      layout.height += row * rows + 16 * more;
    }
    // a title that is longer than its axis becomes two or three lines
    const tall = layout.height - layout.margin.t - layout.margin.b;
    Object.keys(layout).filter((key) => /^yaxis\d*$/.test(key) && layout[key].title).forEach((key) => {
      const share = layout[key].domain ? layout[key].domain[1] - layout[key].domain[0] : 1;
      layout[key].title.text = broken(layout[key].title.text, 0.95 * share * tall);
    });
    if (narrow) {
      layout.margin = Object.assign({}, layout.margin, { r: 8 });
      if (layout.hovermode === "x unified") { layout.hovermode = "x"; }
    }
    Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key)).forEach((key) => {
      Object.assign(layout[key], { gridcolor: colour("--line"), zerolinecolor: colour("--soft"), linecolor: colour("--line") });
      if (narrow && layout[key].nticks) { layout[key].nticks = 4; }
      if (layout[key].rangeselector) {
        Object.assign(layout[key].rangeselector, {
          bgcolor: colour("--card"), activecolor: colour("--line"), font: { color: colour("--ink"), size: 11 },
        });
      }
    });
    return made;
  }

  // words of plotly's own buttons
  const chinese = {
    moduleType: "locale", name: "zh-CN",
    dictionary: {
      "Zoom": "缩放", "Pan": "平移", "Zoom in": "放大", "Zoom out": "缩小", "Autoscale": "自动缩放", "Reset axes": "重置坐标轴",
      "Download plot as a png": "下载为 PNG 图片", "Download plot as a PNG": "下载为 PNG 图片",
      "Double-click to zoom back out": "双击还原", "Box Select": "框选", "Lasso Select": "套索选择", "Reset": "重置",
    },
  };

  // what is long lies in the page compressed
  async function unpacked(id) {
    const bytes = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // plotly's library is evaluated after the page can be read and used, or when a chart needs it
  let source = null;
  function plotly() {
    if (!window.Plotly) {
      const library = document.createElement("script");
      library.textContent = source;
      document.head.appendChild(library);
      window.Plotly.register(chinese);
    }
    return window.Plotly;
  }

  function draw(chart) {
    const made = dressed(chart);
    const locale = root.dataset.language === "zh" ? "zh-CN" : "en";
    const config = { locale: locale, responsive: !printing, displaylogo: false, displayModeBar: coarse ? false : "hover", scrollZoom: false };
    chart.dataset.drawn = "yes";
    return plotly().react(chart, made.data, made.layout, config);
  }

  // charts near the window are drawn, one a turn, those in it first; a click comes between two of them
  let waiting = [];
  const inWindow = (chart) => { const box = chart.getBoundingClientRect(); return box.bottom > 0 && box.top < window.innerHeight; };
  function next() {
    waiting.sort((one, other) => Number(inWindow(other)) - Number(inWindow(one)));
    const chart = waiting.shift();
    if (!chart) { return; }
    setTimeout(next, 0);
    const drawn = draw(chart);
    if (!performance.getEntriesByName("qlib_ext.charts").length) {
      drawn.then(() => performance.mark("qlib_ext.charts"));
    }
  }
  const watcher = new IntersectionObserver((entries) => {
    const near = entries.filter((entry) => entry.isIntersecting).map((entry) => entry.target);
    near.forEach((chart) => watcher.unobserve(chart));
    const idle = waiting.length === 0;
    waiting.push(...near);
    if (idle && near.length) { setTimeout(next, 0); }
  }, { rootMargin: "400px" });

  // only what has been drawn and is near is drawn again; the rest when it comes near
  function redraw() {
    if (source === null) { return; }
    charts.filter((chart) => chart.dataset.drawn && !waiting.includes(chart)).forEach((chart) => {
      watcher.unobserve(chart);
      watcher.observe(chart);
    });
  }

  function sayHints() {
    const zh = root.dataset.language === "zh";
    [["title", "titleZh"], ["aria-label", "ariaZh"]].forEach(([name, key]) => {
      const attribute = "data-" + key.replace("Zh", "-zh");
      document.querySelectorAll("[" + attribute + "]").forEach((item) => {
        if (!item.dataset[key + "En"]) { item.dataset[key + "En"] = item.getAttribute(name); }
        item.setAttribute(name, zh ? item.dataset[key] : item.dataset[key + "En"]);
      });
    });
  }

  function setLanguage(language) {
    root.dataset.language = language;
    root.lang = language;
    $("language").textContent = language === "zh" ? "English" : "中文";
    store("qlib_ext.language", language);
    sayHints();
    fit(wide);
    redraw();
  }

  function setTheme(theme) {
    root.dataset.theme = theme;
    store("qlib_ext.theme", theme);
    redraw();
  }

  // --- tables: one that is cut off becomes tighter, one that still is a list of its numbers under their titles

  const wide = Array.from(document.querySelectorAll(".scroll > table"));
  const cut = (table) => table.parentElement.scrollWidth > table.parentElement.clientWidth + 1;
  function label(table) {
    const zh = root.dataset.language === "zh";
    const said = (head) => { const one = head.querySelector(zh ? "[lang=zh]" : "[lang=en]"); return (one || head).textContent.trim(); };
    const labels = Array.from(table.querySelectorAll("thead th")).map(said);
    table.querySelectorAll("tbody tr").forEach((row) => {
      Array.from(row.children).forEach((cell, place) => { if (place) { cell.dataset.label = labels[place]; } });
    });
  }
  function fit(tables) {
    tables.forEach((table) => table.classList.remove("tight", "stacked"));
    const over = tables.filter(cut);
    over.forEach((table) => table.classList.add("tight"));
    over.filter(cut).forEach((table) => { label(table); table.classList.add("stacked"); });
  }
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (!printing && window.innerWidth !== width) { width = window.innerWidth; fit(wide); }
  });

  // --- holdings

  let held = null;
  const share = (value) => (100 * value).toFixed(2) + "%";
  const yuan = (value) => (value === null ? "–" : Math.round(value).toLocaleString("en-US").replace("-", "−"));
  const shownHoldings = 30;
  let shown = 0;

  function line(cells) {
    const row = document.createElement("tr");
    cells.forEach((text, place) => {
      const cell = document.createElement(place ? "td" : "th");
      cell.textContent = text;
      if (place) { cell.dataset.v = text; }
      row.appendChild(cell);
    });
    return row;
  }

  function showDay(place) {
    shown = Math.min(Math.max(place, 0), held.days.length - 1);
    const flat = held.top[shown], wanted = $("stock").value.trim().toUpperCase();
    const rows = [];
    const most = wanted ? flat.length : 3 * shownHoldings;
    for (let i = 0; i < Math.min(flat.length, most); i += 3) {
      const code = held.codes[flat[i]];
      if (!wanted || code.toUpperCase().includes(wanted)) {
        const used = flat[i + 2] < 0 ? "–" : share(flat[i + 2] / 10000);
        rows.push(line([code, yuan(flat[i + 1]), held.capital ? share(flat[i + 1] / held.capital) : "–", used]));
      }
    }
    document.querySelector("#top tbody").replaceChildren(...rows);
    $("absent").hidden = rows.length > 0;
    $("day").value = held.days[shown];
    $("shown-day").textContent = held.days[shown];
    fit([$("top")]);
  }

  function showStocks() {
    const wanted = $("stock").value.trim().toUpperCase();
    const found = held.stocks.filter((row) => !wanted || held.codes[row[0]].toUpperCase().includes(wanted)).slice(0, 200);
    document.querySelector("#stocks tbody").replaceChildren(...found.map((row) => {
      const made = line([held.codes[row[0]], String(row[1]), yuan(row[2]), share(row[3]), row[4] === null ? "–" : share(row[4]), yuan(row[5])]);
      made.className = "pick";
      made.firstChild.addEventListener("click", () => {
        $("stock").value = held.codes[row[0]];
        const there = held.top.findIndex((flat) => flat.some((value, i) => i % 3 === 0 && value === row[0]));
        showStocks();
        showDay(there < 0 ? shown : there);
      });
      return made;
    }));
    fit([$("stocks")]);
  }

  function startHoldings() {
    $("day").min = held.days[0];
    $("day").max = held.days[held.days.length - 1];
    $("day").addEventListener("change", () => {
      const later = held.days.findIndex((day) => day >= $("day").value);
      showDay(later < 0 ? held.days.length - 1 : later);
    });
    $("before").addEventListener("click", () => showDay(shown - 1));
    $("after").addEventListener("click", () => showDay(shown + 1));
    $("stock").addEventListener("input", () => { showStocks(); showDay(shown); });
    showStocks();
    showDay(held.days.length - 1);
  }

  // --- paper: everything drawn, everything open, light

  let before = null;
  function toPaper() {
    if (printing) { return; }
    printing = true;
    before = { theme: root.dataset.theme, closed: Array.from(document.querySelectorAll("details:not([open])")) };
    root.dataset.theme = "light";
    before.closed.forEach((item) => { item.open = true; });
    root.classList.add("paper");
    fit(wide);
    waiting = [];
    if (source !== null) { charts.forEach((chart) => { watcher.unobserve(chart); draw(chart); }); }
  }
  function fromPaper() {
    if (!printing) { return; }
    printing = false;
    if (before.theme) { root.dataset.theme = before.theme; } else { delete root.dataset.theme; }
    before.closed.forEach((item) => { item.open = false; });
    root.classList.remove("paper");
    fit(wide);
    redraw();
  }

  // --- start

  root.dataset.language = stored("qlib_ext.language") || ((navigator.language || "").startsWith("zh") ? "zh" : "en");
  if (stored("qlib_ext.theme")) { root.dataset.theme = stored("qlib_ext.theme"); }
  $("language").textContent = root.dataset.language === "zh" ? "English" : "中文";
  sayHints();
  $("language").addEventListener("click", () => setLanguage(root.dataset.language === "zh" ? "en" : "zh"));
  $("theme").addEventListener("click", () => setTheme(dark() ? "light" : "dark"));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.querySelectorAll("button.all").forEach((button) => {
    button.addEventListener("click", () => {
      const table = button.previousElementSibling.querySelector("table");
      table.classList.add("open");
      fit([table]);
      button.remove();
    });
  });
  const menu = document.querySelector("nav");
  const unfold = (open) => { menu.classList.toggle("open", open); $("menu").setAttribute("aria-expanded", String(open)); };
  $("menu").addEventListener("click", () => unfold(!menu.classList.contains("open")));
  $("links").addEventListener("click", () => unfold(false));
  window.addEventListener("beforeprint", toPaper);
  window.addEventListener("afterprint", fromPaper);
  fit(wide);
  const start = $("json-holdings") ? unpacked("json-holdings") : Promise.resolve(null);
  start.then((text) => {
    if (text) { held = JSON.parse(text); startHoldings(); }
    root.dataset.ready = "yes";
    performance.mark("qlib_ext.ready");
    return unpacked("plotly");
  }).then((text) => {  // evaluated when a chart comes near, at the latest when nothing else is to be done
    source = text;
    root.dataset.charts = "ready";
    charts.forEach((chart) => watcher.observe(chart));
    if (charts.length) { (window.requestIdleCallback || ((call) => setTimeout(call, 500)))(plotly); }
  });
})();
