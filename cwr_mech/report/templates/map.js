"use strict";
// The map in motion: true places, places decoded by layer, prompt and checkpoint, places implied by answers.
window.drawMap = (box, data, { make, layoutOf, config, still }) => {
  const { cities, decoded, implied } = data;
  const unpack = (text) => new Int16Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  const at = (values, index) => (values[2 * index] === -32768 ? [null, null]
    : [data.origin[0] + data.unit * values[2 * index], data.origin[1] + data.unit * values[2 * index + 1]]);
  const all = [...cities.id.keys()];
  const probed = decoded && unpack(decoded.places);
  const answered = implied && { places: unpack(implied.places), probe: unpack(implied.probe) };
  const runs = [...new Set([...(decoded ? decoded.states.map((state) => state.run) : []), ...(implied ? implied.runs : [])])];

  // ---- controls
  const controls = make("div", { class: "controls" });
  const control = (label, node) => controls.append(make("label", {}, `${label} `, node)) || node;
  const choice = (label, options) => control(label, make("select", {}, ...options.map((word, index) =>
    make("option", { value: String(index) }, String(word)))));
  const slider = (label, last) => {
    const range = control(label, make("input", { type: "range", min: "0", max: String(last), step: "1" }));
    range.value = String(last);
    return range;
  };
  const model = choice("Model", runs);
  const prompt = decoded && choice("Prompt", decoded.prompts);
  const layer = decoded && slider("Layer", decoded.layers.length - 1);
  const step = decoded && slider("Checkpoint", 0);
  const task = choice("Places", ["decoded", "true", ...(implied ? ["implied by answers: all tasks",
    ...implied.tasks.map((name) => `implied by answers: ${name}`)] : [])]);
  const arrows = make("input", { type: "checkbox" });
  arrows.checked = true;
  controls.append(make("label", { class: "tick" }, arrows, "Lines from the true places"));
  const players = decoded ? [["Play layers", layer], ["Play checkpoints", step]].map(([label, range]) => {
    const button = make("button", { type: "button", class: "do" }, label);
    button.addEventListener("click", () => play(button, label, range));
    controls.append(button);
    return button;
  }) : [];
  const said = make("output", { "aria-live": "polite" });
  const plot = make("div", { class: "plot map" });
  box.append(controls, said, plot);

  // ---- what is chosen
  const states = () => decoded ? decoded.states.map((state, index) => ({ ...state, index }))
    .filter((state) => state.run === runs[model.value]).sort((a, b) => a.step - b.step) : [];
  const state = () => states()[Math.min(Number(step ? step.value : 0), states().length - 1)];
  const probe = () => {
    const now = state();
    if (now) {
      const row = (now.index * decoded.prompts.length + Number(prompt.value)) * decoded.layers.length + Number(layer.value);
      return { places: all.map((city) => at(probed, row * all.length + city)), words:
        `${runs[model.value]}, ${decoded.layers[layer.value]}, ${decoded.prompts[prompt.value]} prompt, step ${now.step}: ${decoded.scores[row]}.` };
    }
    const run = implied.runs.indexOf(runs[model.value]);
    const places = all.map(() => [null, null]);
    implied.cities.forEach((city, index) => { places[city] = at(answered.probe, run * implied.cities.length + index); });
    return { places, words: `${runs[model.value]}: decoded at the best layer, the cities that were asked about.` };
  };
  const shown = () => {
    const kind = Number(task.value);
    if (kind === 1) return { places: all.map((city) => [cities.x[city], cities.y[city]]), words: "True places." };
    return kind === 0 ? probe() : null;
  };

  // ---- drawing
  const hover = all.map((city) => `${cities.name[city]} (${cities.id[city]}), ${cities.region[city]}${cities.is_new[city] ? ", new" : ""}`);
  const groups = Object.entries(cities.looks).flatMap(([region, look]) => [false, true].map((isNew) => ({
    region, look, isNew, members: all.filter((city) => cities.region[city] === region && cities.is_new[city] === isNew),
  }))).filter((group) => group.members.length);
  const lines = (pairs, color) => ({
    type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, line: { color, width: 1 }, opacity: 0.7,
    x: pairs.flatMap(([a, b]) => [a[0], b[0], null]), y: pairs.flatMap(([a, b]) => [a[1], b[1], null]),
  });
  const truth = (city) => [cities.x[city], cities.y[city]];
  const points = (places) => groups.map(({ region, look, isNew, members }) => ({
    type: "scatter", mode: "markers", name: isNew && !["Atlantis", "new cities"].includes(region) ? `${region}, new` : region,
    x: members.map((city) => places[city][0]), y: members.map((city) => places[city][1]),
    text: members.map((city) => hover[city]), hovertemplate: "%{text}<br>%{x:.0f}, %{y:.0f}<extra></extra>",
    marker: { color: isNew ? "#000" : look.color, symbol: isNew ? "star" : look.symbol, size: isNew ? 10 : 7,
      line: { color: "#fff", width: 0.5 } },
  }));
  const backdrop = () => ({
    type: "scatter", mode: "markers", name: "true place", x: cities.x, y: cities.y, text: hover,
    hovertemplate: "%{text}<br>true place %{x:.0f}, %{y:.0f}<extra></extra>",
    marker: { color: "#8a8a8a", symbol: "circle-open", size: 5 },
  });
  const byAnswers = () => {
    const run = implied.runs.indexOf(runs[model.value]);
    const which = Number(task.value) === 2 ? [...implied.tasks.keys()] : [Number(task.value) - 3];
    if (run < 0) return { traces: [backdrop()], words: `No answers of ${runs[model.value]} were asked for.` };
    const traces = [backdrop()];
    for (const one of which) {
      const row = (run * implied.tasks.length + one) * implied.cities.length;
      const places = implied.cities.map((_, index) => at(answered.places, row + index));
      const pairs = implied.cities.map((city, index) => [truth(city), places[index]]);
      traces.push(lines(arrows.checked ? pairs : [], implied.looks[one].color));
      traces.push({
        type: "scatter", mode: "markers", name: implied.tasks[one], x: places.map((p) => p[0]), y: places.map((p) => p[1]),
        text: implied.cities.map((city) => hover[city]),
        hovertemplate: `%{text}<br>implied by ${implied.tasks[one]}: %{x:.0f}, %{y:.0f}<extra></extra>`,
        marker: { ...implied.looks[one], size: 8, line: { color: "#fff", width: 0.5 } },
      });
    }
    const words = `${runs[model.value]}: places that its own answers imply, ${implied.cities.length} cities, `
      + which.map((one) => implied.tasks[one]).join(", ") + ".";
    return { traces, words };
  };
  const extent = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return [low - 0.12 * (high - low || 1), high + 0.12 * (high - low || 1)];
  };
  const layout = (traces) => {
    const [x, y] = [extent(cities.x), extent(cities.y)];
    const tall = (plot.clientWidth - 70) * ((y[1] - y[0]) / (x[1] - x[0])) + 90;
    return layoutOf({ data: traces.filter((trace) => trace.name).map((trace) => ({ ...trace, showlegend: true })), layout: {
      showlegend: true, height: Math.max(240, Math.min(620, tall)), uirevision: "map",
      xaxis: { title: { text: "x (0.1° of longitude)" }, range: x, constrain: "domain" },
      yaxis: { title: { text: "y (0.1° of latitude)" }, range: y, constrain: "domain", scaleanchor: "x" },
    } }, plot.clientWidth);
  };

  let before = null; // the places on the screen, so that a change can be seen as a movement
  const show = (places, words, moving) => {
    const traces = [backdrop(), lines(arrows.checked ? all.filter((city) => places[city][0] !== null)
      .map((city) => [truth(city), places[city]]) : [], "#b0b0b0"), ...points(places)];
    said.textContent = words;
    before = moving ? before : places;
    return Plotly.react(plot, traces, layout(traces), config());
  };
  let turn = 0;
  const move = (from, to, words) => {
    const mine = ++turn;
    const frames = still || !from ? 1 : 12;
    const tick = (frame) => {
      if (mine !== turn) return;
      const share = frame / frames;
      const between = to.map((end, city) => end[0] === null || from === null || from[city][0] === null ? end
        : [from[city][0] + share * (end[0] - from[city][0]), from[city][1] + share * (end[1] - from[city][1])]);
      show(between, words, frame < frames);
      plot.setAttribute("aria-busy", String(frame < frames));
      if (frame < frames) requestAnimationFrame(() => tick(frame + 1));
    };
    tick(frames === 1 ? 1 : 0);
  };
  const update = () => {
    const last = Math.max(0, states().length - 1);
    if (step) {
      step.max = String(last);
      step.disabled = players[1].disabled = last === 0;
      step.setAttribute("aria-valuetext", state() ? `step ${state().step}` : "none");
      layer.setAttribute("aria-valuetext", decoded.layers[layer.value]);
      const used = Number(task.value) === 0 && Boolean(state());
      for (const node of [prompt, layer, players[0]]) node.disabled = !used;
      if (!used) step.disabled = players[1].disabled = true;
    }
    const now = shown();
    if (now) return move(before, now.places, now.words);
    turn += 1;
    before = null;
    plot.setAttribute("aria-busy", "false");
    const { traces, words } = byAnswers();
    said.textContent = words;
    return Plotly.react(plot, traces, layout(traces), config());
  };

  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    players.forEach((button, index) => { button.textContent = ["Play layers", "Play checkpoints"][index]; });
  };
  const play = (button, label, range) => {
    const running = timer !== null;
    stop();
    if (running) return;
    button.textContent = "Stop";
    range.value = "0";
    update();
    timer = setInterval(() => {
      if (Number(range.value) >= Number(range.max)) return stop();
      range.value = String(Number(range.value) + 1);
      return update();
    }, 900);
  };
  const toLast = () => { if (step) { step.max = "999"; step.value = "999"; } }; // update() sets the true end
  toLast();
  model.addEventListener("change", () => { toLast(); update(); });
  for (const node of [prompt, task, arrows]) if (node) node.addEventListener("change", update);
  for (const node of [layer, step]) if (node) node.addEventListener("input", update);
  box.draw = update;
};
