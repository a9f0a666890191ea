"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const narrow = () => window.innerWidth < 640;

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key in node && typeof value !== "string") node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  };

  // ---- tables: sort by any column, filter by any word
  const number = (text) => {
    const match = text.replace(/,/g, "").replace(/−/g, "-").match(/^-?\d+(\.\d+)?(e[+-]?\d+)?/i);
    return match ? parseFloat(match[0]) : NaN;
  };
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (!isNaN(x) && !isNaN(y)) return x - y;
    if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
    return a.localeCompare(b);
  };

  const sortable = (table, rows) => {
    table.querySelectorAll("thead th").forEach((head, column) => {
      const button = make("button", { type: "button", title: "Sort by this column" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const cells = new Map(rows.map((row) => [row, row.cells[column].textContent.trim()]));
        rows.sort((a, b) => {
          const [x, y] = [cells.get(a), cells.get(b)];
          if ((x === "-") !== (y === "-")) return x === "-" ? 1 : -1; // what is unknown comes last both ways
          return down ? compare(y, x) : compare(x, y);
        });
        table.tBodies[0].append(...rows);
      });
    });
  };

  const filterable = (rows, bar) => {
    const field = make("input", { type: "search", placeholder: "words, all of them" });
    const count = make("output");
    const words = rows.map((row) => row.textContent.toLowerCase());
    const say = (shown) => {
      count.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
    };
    const texts = new Map(rows.map((row, index) => [row, words[index]]));
    field.addEventListener("input", () => {
      const asked = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        row.hidden = !asked.every((word) => texts.get(row).includes(word));
        shown += !row.hidden;
      }
      say(shown);
    });
    bar.append(make("label", {}, "Filter ", field), count);
    say(rows.length);
  };

  document.querySelectorAll("main table").forEach((table) => {
    const rows = [...table.tBodies[0].rows];
    const box = make("div", { class: "table" });
    const scroll = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" });
    table.before(box);
    if (rows.length > 7) {
      const bar = make("div", { class: "bar" });
      filterable(rows, bar);
      box.append(bar);
    }
    box.append(scroll);
    scroll.append(table);
    if (rows.length <= 12) scroll.classList.add("whole");
    if (rows.length > 1) sortable(table, rows);
    for (const cell of table.querySelectorAll("td")) {
      if (cell.textContent.length < 18) cell.classList.add("short");
    }
  });

  // ---- figures: drawn when they come near the screen
  const legendHeight = (panel, width) => {
    const names = panel.data.filter((trace) => trace.showlegend).map((trace) => trace.name.length);
    if (!names.length) return 0;
    const columns = Math.max(1, Math.floor((width - 30) / (46 + 6.5 * Math.max(...names))));
    return 19 * Math.ceil(names.length / columns) + 12;
  };
  const laidOut = (panel, width) => {
    const layout = panel.layout;
    const axis = (given, most) => {
      const names = given.ticktext && given.ticktext.length > 30 ? { showticklabels: false, ticks: "" } // hover says them
        : { ticktext: given.ticktext && given.ticktext.map((name) => (name.length > most ? `${name.slice(0, most - 1)}…` : name)) };
      return { automargin: true, gridcolor: "#e4e4e4", zerolinecolor: "#bbb", ...given, ...names };
    };
    const below = legendHeight(panel, width);
    const flat = layout.yaxis && layout.yaxis.scaleanchor;
    return {
      ...layout,
      margin: { l: 50, r: 10, t: narrow() ? 12 : 30, b: 46 + below },
      font: { family: "system-ui, DejaVu Sans, sans-serif", size: narrow() ? 11 : 12, color: "#1a1a1a" },
      title: { text: "" },
      ...(layout.scene ? {} : { xaxis: axis(layout.xaxis, 40), yaxis: axis(layout.yaxis, Math.round(width / 16)) }),
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, font: { size: 11 } },
      height: (flat && narrow() ? Math.min(layout.height, 330) : layout.height) + below,
      hoverlabel: { bgcolor: "#fff", font: { color: "#111", size: 13 } },
      modebar: { bgcolor: "rgba(255,255,255,.8)", color: "#999", activecolor: "#222" },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "#fff",
    };
  };
  const traces = (panel) => {
    if (!narrow()) return panel.data;
    return panel.data.map((trace) => (trace.type === "heatmap" ? { ...trace, showscale: false } : trace));
  };
  const config = () => ({
    responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  });
  const draw = (place, panel) => {
    if (panel.layout.scene && !webgl) {
      place.textContent = "This figure in space needs WebGL, which this browser does not offer.";
      return null;
    }
    return Plotly.react(place, traces(panel), laidOut(panel, place.clientWidth), config());
  };
  const webgl = Boolean(document.createElement("canvas").getContext("webgl"));
  const framed = (panel) => {
    const place = make("span", { class: "plot" });
    place.style.minHeight = `${panel.layout.height}px`;
    const title = make("span", { class: "title" });
    title.textContent = ((panel.layout.title && panel.layout.title.text) || "").replace(/<br>/g, " ");
    return [place, make("span", { class: "panel" }, title, place)];
  };

  const whenNear = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      whenNear.unobserve(entry.target);
      entry.target.draw();
    }
  }, { rootMargin: "600px" });

  document.querySelectorAll("[data-figure]").forEach((figure) => {
    for (const panel of data.figures[figure.dataset.figure] || []) {
      const [place, frame] = framed(panel);
      place.draw = () => draw(place, panel);
      figure.append(frame);
      whenNear.observe(place);
    }
  });

  // ---- figures whose content is chosen
  document.querySelectorAll("[data-explorer]").forEach((box) => {
    const { title, controls, panels, note } = data.explorers[box.dataset.explorer];
    const place = make("div", { class: "plot" });
    const said = make("output", { "aria-live": "polite" });
    const choices = Object.entries(controls).map(([label, options]) => [label, make("select", {},
      ...options.map((word, index) => make("option", { value: String(index) }, word)))]);
    box.append(make("h5", {}, title), make("div", { class: "controls" },
      ...choices.map(([label, choice]) => make("label", {}, `${label} `, choice))), said, place,
    make("p", { class: "note" }, note));
    place.style.minHeight = `${Object.values(panels)[0].layout.height}px`;
    place.draw = () => {
      const panel = panels[choices.map(([, choice]) => choice.value).join("|")];
      const words = choices.map(([, choice]) => choice.selectedOptions[0].textContent).join(", ");
      said.textContent = panel ? words : `${words}: nothing was measured.`;
      if (panel) draw(place, panel);
      else Plotly.purge(place);
    };
    choices.forEach(([, choice]) => choice.addEventListener("change", place.draw));
    whenNear.observe(place);
  });

  const moving = document.getElementById("map-in-motion");
  if (moving) {
    window.drawMap(moving, data.map, { make, layoutOf: laidOut, config, still });
    whenNear.observe(moving);
  }

  // ---- contents: closed on a phone, and open where there is room
  const contents = document.getElementById("contents");
  if (window.innerWidth < 1120) contents.open = false;
  contents.addEventListener("click", (event) => {
    if (event.target.tagName === "A" && window.innerWidth < 1120) contents.open = false;
  });
})();
