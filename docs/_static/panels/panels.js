"use strict";
/*
 * Interactive figures. A page contains <div class="espref-panel" data-panel="slices" data-state="{...}"> with a static
 * picture; this script replaces the picture. All numbers come from core.js. Each panel is a function that builds its
 * views once and returns `update`, which computes everything from the state and draws it.
 */
(() => {
  const { espref } = globalThis;
  const CIVIDIS = ["00224e", "1a386f", "434e6c", "61656f", "7d7c78", "9b9476", "bcae6c", "dec958", "fee838"];
  const format = (value) => value.toPrecision(3).replace(/e\+?/, "e").replace("-", "−");
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // --- elements ---------------------------------------------------------------------------------------------------

  const NAMESPACE = "http://www.w3.org/2000/svg";

  /** An SVG element with attributes, inside a parent. */
  function svg(tag, attributes, parent) {
    const element = document.createElementNS(NAMESPACE, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    parent?.append(element);
    return element;
  }

  /** A view of a panel: a titled SVG of width 320 whose drawing is emptied before each update. */
  function view(panel, height, description) {
    const figure = document.createElement("figure");
    const title = document.createElement("figcaption");
    const root = svg("svg", { viewBox: `0 0 320 ${height}`, role: "img", "aria-label": description });
    figure.append(title, root);
    panel.querySelector(".views").append(figure);
    const drawing = svg("g", {}, root);
    return { root, drawing, height, title: (text) => { title.textContent = text; }, clear: () => drawing.replaceChildren() };
  }

  /** A labelled slider. `read` turns its position into a value, `show` into text. */
  function slider(panel, { label, min, max, step, value, read = Number, show = format, onInput }) {
    const row = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "range", min, max, step, value });
    const name = document.createElement("span");
    const output = document.createElement("output");
    name.textContent = label;
    row.append(name, input, output);
    panel.querySelector(".controls").append(row);
    const changed = () => {
      const found = read(Number(input.value));
      output.textContent = show(found);
      input.setAttribute("aria-valuetext", show(found));
      onInput(found);
    };
    input.addEventListener("input", changed);
    return { set: (position) => { input.value = position; changed(); } };
  }

  /** A linear scale from data to pixels. */
  const scale = (low, high, from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);

  /** Let a handle be dragged: `move(dx, dy)` takes pixels of the view. The arrow keys call `step(right, up)`. */
  function draggable(handle, root, move, step = (right, up) => move(6 * right, -6 * up)) {
    handle.setAttribute("tabindex", "0");
    handle.classList.add("handle");
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      handle.focus();
      handle.setPointerCapture(event.pointerId);
      let last = event;
      const follow = (next) => {
        const size = root.getBoundingClientRect().width / 320;
        move((next.clientX - last.clientX) / size, (next.clientY - last.clientY) / size);
        last = next;
      };
      const stop = () => {
        handle.removeEventListener("pointermove", follow);
        handle.removeEventListener("pointerup", stop);
        handle.removeEventListener("pointercancel", stop);
      };
      handle.addEventListener("pointermove", follow);
      handle.addEventListener("pointerup", stop);
      handle.addEventListener("pointercancel", stop);
    });
    handle.addEventListener("keydown", (event) => {
      const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!arrow) return;
      event.preventDefault();
      step(...arrow);
    });
  }

  // --- drawing ----------------------------------------------------------------------------------------------------

  const line = (parent, x1, y1, x2, y2, attributes = {}) => svg("line", { x1, y1, x2, y2, ...attributes }, parent);
  const text = (parent, x, y, content, attributes = {}) => {
    svg("text", { x, y, ...attributes }, parent).textContent = content;
  };
  /** A curve of steps over the half circle: each slice stands for the arc around its angle. */
  const steps = (values) => values.flatMap((value, l) => [l, l + 1].map((end) => [(Math.PI * end) / values.length, value]));
  const path = (points) => points.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(2)},${y.toFixed(2)}`).join("");

  /** A colour of the map for a value from 0 to 1. */
  function colour(value) {
    const place = clamp(value, 0, 1) * (CIVIDIS.length - 1);
    const low = Math.min(Math.floor(place), CIVIDIS.length - 2);
    const parts = [0, 2, 4].map((at) => {
      const [a, b] = [CIVIDIS[low], CIVIDIS[low + 1]].map((hex) => parseInt(hex.slice(at, at + 2), 16));
      return Math.round(a + (place - low) * (b - a));
    });
    return `rgb(${parts.join(",")})`;
  }

  /** A matrix as coloured cells in a square of the view. */
  function heatMap(parent, matrix, most, { left, top, size, label = true }) {
    const [n, m] = [matrix.length, matrix[0].length];
    const [width, height] = [size / m, size / n];
    matrix.forEach((row, i) => row.forEach((value, j) => {
      const cell = { x: left + j * width, y: top + i * height, width: width + 0.3, height: height + 0.3 };
      svg("rect", { ...cell, fill: colour(value / most) }, parent);
      if (label && n <= 6) {
        const ink = value / most > 0.55 ? "#000" : "#fff";
        text(parent, cell.x + width / 2, cell.y + height / 2 + 4, value.toFixed(2), { class: "cell", style: `fill:${ink}` });
      }
    }));
  }

  /** Axes of a plot with labels at given places, and the scales from data to pixels. */
  function axes(parent, { x, y, height, xTicks = [], yTicks = [], xLabel, yLabel }) {
    const [sx, sy] = [scale(x[0], x[1], 44, 312), scale(y[0], y[1], height - 34, 10)];
    line(parent, 44, height - 34, 312, height - 34, { class: "axis" });
    line(parent, 44, height - 34, 44, 10, { class: "axis" });
    for (const [value, name] of xTicks) {
      text(parent, sx(value), height - 20, name, { class: "tick", "text-anchor": value === x[1] ? "end" : "middle" });
    }
    for (const [value, name] of yTicks) text(parent, 40, sy(value) + 4, name, { class: "tick", "text-anchor": "end" });
    text(parent, 178, height - 4, xLabel, { class: "label", "text-anchor": "middle" });
    text(parent, 12, (height - 24) / 2, yLabel, { class: "label", "text-anchor": "middle",
      transform: `rotate(-90 12 ${(height - 24) / 2})` });
    return [sx, sy];
  }

  /** Ticks at the ends of an interval. */
  const ends = ([low, high]) => [[low, format(low)], [high, format(high)]];
  const widened = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = 0.05 * (high - low) || 0.5;
    return [low - margin, high + margin];
  };
  const HALF_TURN = [[0, "0°"], [Math.PI / 2, "90°"], [Math.PI, "180°"]];

  /** The plane [-extent, extent]^2 in pixels [0, 320]^2. */
  const pixels = (extent) => ([x, y]) => [160 + (160 / extent) * x, 160 - (160 / extent) * y];

  /** Points of both clouds as handles in the plane. */
  function movable(plane, state, update) {
    const toPixels = pixels(state.extent);
    const [unit, edge] = [state.extent / 160, 0.95 * state.extent];
    const group = svg("g", {}, plane.root);
    const handles = [["x", "source"], ["y", "target"]].flatMap(([cloud, name]) => state[cloud].map((_, k) => {
      const shape = cloud === "x" ? svg("circle", { r: 7, class: name }, group)
        : svg("rect", { x: -6.5, y: -6.5, width: 13, height: 13, class: name }, group);
      draggable(shape, plane.root, (dx, dy) => {
        const [px, py] = state[cloud][k];
        state[cloud][k] = [clamp(px + dx * unit, -edge, edge), clamp(py - dy * unit, -edge, edge)];
        update();
      });
      return { shape, place: () => {
        const [px, py] = toPixels(state[cloud][k]);
        shape.setAttribute("transform", `translate(${px} ${py})`);
        shape.setAttribute("role", "button");
        const position = state[cloud][k].map((value) => value.toFixed(2)).join(", ");
        shape.setAttribute("aria-label", `${name} point ${k + 1} at ${position}; the arrow keys move it`);
      } };
    }));
    return () => handles.forEach((handle) => handle.place());
  }

  /** Lines between the points of both clouds, as wide as the mass they carry. */
  function drawPlan(parent, plan, x, y, place) {
    plan.forEach((row, i) => row.forEach((mass, j) => {
      if (mass < 1e-4) return;
      const relative = mass * Math.min(x.length, y.length);
      line(parent, ...place(x[i]), ...place(y[j]), { class: "mass", "stroke-width": 1 + 4 * relative,
        "stroke-opacity": 0.25 + 0.6 * Math.min(1, relative) });
    }));
  }

  // --- panels -----------------------------------------------------------------------------------------------------

  const PANELS = {};

  /** Two clouds, one direction: shadows, the matching on the line, the lifted plan, its cost, the running mean. */
  PANELS.slices = (panel, state) => {
    const plane = view(panel, 320, "Two clouds, their shadows on a line through the centre, and the plan of this slice");
    const shadows = view(panel, 150, "The shadows on the line and the arcs that match them");
    const costs = view(panel, 190, "Cost of the slice against the angle of its direction");
    const mean = view(panel, 320, "Mean of the plans of the slices so far, as a matrix");
    const [below, toPixels] = [svg("g", {}, plane.root), pixels(state.extent)];
    const place = movable(plane, state, () => panel.update());
    const knob = svg("circle", { r: 9, class: "knob", role: "button" }, plane.root);
    const turn = slider(panel, { label: "Slice", min: 0, max: state.slices - 1, step: 1, value: state.index,
      show: (index) => `${index + 1} of ${state.slices}`, onInput: (index) => { state.index = index; panel.update?.(); } });
    let grip = null;
    draggable(knob, plane.root, (dx, dy) => {
      grip = [grip[0] + dx, grip[1] + dy];
      const angle = (Math.atan2(160 - grip[1], grip[0] - 160) + 2 * Math.PI) % Math.PI;
      turn.set(Math.min(state.slices - 1, Math.floor((angle / Math.PI) * state.slices)));
    }, (right, up) => turn.set((state.index + right + up + state.slices) % state.slices));
    knob.addEventListener("pointerup", () => { grip = null; panel.update(); });

    const numbers = () => {
      const angles = espref.equispaced(state.slices);
      const all = angles.map((angle) => espref.slice(state.x, state.y, angle));
      const soFar = all.slice(0, state.index + 1);
      const average = espref.average(soFar.map((found) => found.plan), soFar.map(() => 1 / soFar.length));
      const theta = espref.direction(angles[state.index]);
      return { angle: angles[state.index], angles, costs: all.map((found) => found.cost),
        plan: all[state.index].plan, mean: average, meanCost: espref.planCost(average, state.x, state.y),
        u: espref.project(state.x, theta), v: espref.project(state.y, theta) };
    };

    const update = () => {
      const found = numbers();
      const [cx, cy] = espref.direction(found.angle);
      const onLine = (s) => toPixels([s * cx, s * cy]);

      below.replaceChildren();
      line(below, ...onLine(-1.5 * state.extent), ...onLine(1.5 * state.extent), { class: "axis" });
      const shadow = (points, scores, name) => points.forEach((point, k) => {
        line(below, ...toPixels(point), ...onLine(scores[k]), { class: `shadow ${name}` });
        const [px, py] = onLine(scores[k]);
        svg("circle", { cx: px, cy: py, r: 3, class: name }, below);
      });
      shadow(state.x, found.u, "source");
      shadow(state.y, found.v, "target");
      drawPlan(below, found.plan, state.x, state.y, toPixels);
      const [kx, ky] = onLine(0.93 * state.extent);
      knob.setAttribute("transform", `translate(${kx} ${ky})`);
      knob.setAttribute("aria-label", `direction at ${Math.round((found.angle * 180) / Math.PI)} degrees; the arrow keys turn it`);
      if (!knob.matches(":active")) grip = [kx, ky];
      place();
      plane.title(`Slice at ${Math.round((found.angle * 180) / Math.PI)}°: cost ${format(found.costs[state.index])}`);

      shadows.clear();
      const [low, high] = widened([...found.u, ...found.v]);
      const sx = scale(low, high, 12, 308);
      line(shadows.drawing, 4, 112, 316, 112, { class: "axis" });
      found.plan.forEach((row, i) => row.forEach((mass, j) => {
        if (mass < 1e-12) return;
        const [from, to] = [sx(found.u[i]), sx(found.v[j])];
        const radius = Math.abs(to - from) / 2;
        svg("path", { d: `M${from},112 A${radius},${Math.min(radius, 95)} 0 0 ${from < to ? 1 : 0} ${to},112`, class: "mass",
          fill: "none", "stroke-width": 1 + 4 * mass * Math.min(found.u.length, found.v.length) }, shadows.drawing);
      }));
      found.u.forEach((s, i) => {
        svg("circle", { cx: sx(s), cy: 112, r: 4.5, class: "source" }, shadows.drawing);
        text(shadows.drawing, sx(s), 130, i + 1, { class: "tick source-text", "text-anchor": "middle" });
      });
      found.v.forEach((s, j) => {
        svg("rect", { x: sx(s) - 4, y: 108, width: 8, height: 8, class: "target" }, shadows.drawing);
        text(shadows.drawing, sx(s), 144, j + 1, { class: "tick target-text", "text-anchor": "middle" });
      });
      shadows.title("The same slice on the line: sorted and matched");

      costs.clear();
      const range = widened(found.costs);
      const [tx, ty] = axes(costs.drawing, { x: [0, Math.PI], y: range, height: 190, xTicks: HALF_TURN, yTicks: ends(range),
        xLabel: "angle of the direction", yLabel: "cost" });
      svg("path", { d: path(steps(found.costs).map(([t, c]) => [tx(t), ty(c)])), class: "curve" }, costs.drawing);
      svg("path", { d: path([[tx(0), ty(found.meanCost)], [tx(found.angle), ty(found.meanCost)]]), class: "curve mean" }, costs.drawing);
      svg("circle", { cx: tx(found.angle), cy: ty(found.costs[state.index]), r: 5, class: "cursor" }, costs.drawing);
      costs.title(`Cost of every slice; mean of slices 1 to ${state.index + 1}: ${format(found.meanCost)}`);

      mean.clear();
      const n = state.x.length;
      heatMap(mean.drawing, found.mean.map((row) => row.map((mass) => n * mass)), 1, { left: 40, top: 8, size: 272 });
      state.x.forEach((_, i) => text(mean.drawing, 30, 8 + (272 / n) * (i + 0.5) + 4, i + 1, { class: "tick source-text", "text-anchor": "end" }));
      state.y.forEach((_, j) => text(mean.drawing, 40 + (272 / state.y.length) * (j + 0.5), 296, j + 1, { class: "tick target-text", "text-anchor": "middle" }));
      text(mean.drawing, 176, 314, "target point", { class: "label", "text-anchor": "middle" });
      text(mean.drawing, 12, 144, "source point", { class: "label", "text-anchor": "middle", transform: "rotate(-90 12 144)" });
      mean.title(`Mean plan of slices 1 to ${state.index + 1}, times ${n}`);
    };
    return { update, numbers };
  };

  /** The inverse temperature: weights of the slices, cost of the tilted plan, effective number of slices. */
  PANELS.beta = (panel, state) => {
    const BETAS = Array.from({ length: 81 }, (_, k) => 10 ** (-2 + (5 * k) / 80));
    const plane = view(panel, 320, "Two clouds and their tilted plan");
    const weights = view(panel, 190, "Cost and weight of each slice against its angle");
    const cost = view(panel, 190, "Cost of the tilted plan against beta");
    const effective = view(panel, 190, "Effective number of slices against beta");
    const [below, toPixels] = [svg("g", {}, plane.root), pixels(state.extent)];
    const place = movable(plane, state, () => panel.update());
    slider(panel, { label: "Inverse temperature β", min: -2, max: 3, step: 0.05, value: Math.log10(state.beta),
      read: (exponent) => 10 ** exponent, onInput: (beta) => { state.beta = beta; panel.update?.(); } });

    const numbers = () => {
      const angles = espref.equispaced(state.slices);
      const found = espref.expectedPlan(state.x, state.y, angles, state.beta);
      const at = (beta) => {
        const tilted = espref.gibbs(found.costs, beta);
        return { cost: tilted.reduce((total, w, l) => total + w * found.costs[l], 0), effective: espref.effectiveNumber(tilted) };
      };
      return { ...found, angles, effective: espref.effectiveNumber(found.weights), curve: BETAS.map(at) };
    };

    const update = () => {
      const found = numbers();
      below.replaceChildren();
      drawPlan(below, found.plan, state.x, state.y, toPixels);
      place();
      plane.title(`β = ${format(state.beta)}: cost ${format(found.cost)}`);

      weights.clear();
      const range = widened(found.costs);
      const [tx, ty] = axes(weights.drawing, { x: [0, Math.PI], y: range, height: 190, xTicks: HALF_TURN, yTicks: ends(range),
        xLabel: "angle of the direction", yLabel: "cost" });
      const most = Math.max(...found.weights);
      found.weights.forEach((w, l) => line(weights.drawing, tx(found.angles[l]), 156, tx(found.angles[l]), 156 - (130 * w) / most,
        { class: "bar" }));
      svg("path", { d: path(steps(found.costs).map(([t, c]) => [tx(t), ty(c)])), class: "curve" }, weights.drawing);
      weights.title(`Costs (line) and weights (bars, the largest is ${format(most)})`);

      const decades = [[-2, "0.01"], [-1, "0.1"], [0, "1"], [1, "10"], [2, "100"], [3, "1000"]];
      const curve = (target, values, value, span, label, title) => {
        target.clear();
        const [bx, by] = axes(target.drawing, { x: [-2, 3], y: span, height: 190, xTicks: decades, yTicks: ends(span),
          xLabel: "β", yLabel: label });
        svg("path", { d: path(BETAS.map((beta, k) => [bx(Math.log10(beta)), by(values[k])])), class: "curve" }, target.drawing);
        svg("circle", { cx: bx(Math.log10(state.beta)), cy: by(value), r: 5, class: "cursor" }, target.drawing);
        target.title(title);
      };
      const costsOfPlans = found.curve.map((point) => point.cost);
      curve(cost, costsOfPlans, found.cost, widened(costsOfPlans), "cost", `Cost of the tilted plan: ${format(found.cost)}`);
      curve(effective, found.curve.map((point) => point.effective), found.effective, [0, state.slices], "slices",
        `Effective number of slices: ${format(found.effective)} of ${state.slices}`);
    };
    return { update, numbers };
  };

  /** The soft permutation of a few scores, and the soft sorted values as one of the scores moves. */
  PANELS["soft-sort"] = (panel, state) => {
    const MOVES = Array.from({ length: 121 }, (_, k) => -2 + k / 30);
    const scores = view(panel, 90, "The scores on a line");
    const matrix = view(panel, 320, "The soft permutation as a matrix");
    const curves = view(panel, 320, "The soft sorted values while score 1 moves");
    slider(panel, { label: "Temperature τ of the sort", min: -2.5, max: 1.5, step: 0.05, value: Math.log10(state.tau),
      read: (exponent) => 10 ** exponent, onInput: (tau) => { state.tau = tau; panel.update?.(); } });
    const sx = scale(-2, 2, 12, 308);
    const handles = state.s.map((_, k) => {
      const handle = svg("circle", { r: 8, class: k ? "source" : "target", role: "slider", "aria-valuemin": -2, "aria-valuemax": 2,
        "aria-label": `score ${k + 1}` }, scores.root);
      draggable(handle, scores.root, (dx) => {
        state.s[k] = clamp(state.s[k] + (dx * 4) / 296, -2, 2);
        panel.update();
      });
      return handle;
    });

    const numbers = () => {
      const permutation = espref.softPermutation(state.s, state.tau);
      const moved = MOVES.map((score) => espref.softSort([score, ...state.s.slice(1)], state.tau));
      return { permutation, sorted: espref.softSort(state.s, state.tau), columns: espref.columnSums(permutation), moves: MOVES, moved };
    };

    const update = () => {
      const found = numbers();
      scores.clear();
      line(scores.drawing, 4, 40, 316, 40, { class: "axis" });
      state.s.forEach((s, k) => {
        handles[k].setAttribute("transform", `translate(${sx(s)} 40)`);
        handles[k].setAttribute("aria-valuenow", s.toFixed(2));
        text(scores.drawing, sx(s), 24, k + 1, { class: "tick", "text-anchor": "middle" });
      });
      found.sorted.forEach((s) => line(scores.drawing, sx(s), 52, sx(s), 68, { class: "mark" }));
      text(scores.drawing, 160, 84, "bars: the soft sorted values", { class: "label", "text-anchor": "middle" });
      scores.title("Scores: drag them");

      matrix.clear();
      const n = state.s.length;
      heatMap(matrix.drawing, found.permutation, 1, { left: 40, top: 8, size: 272 });
      state.s.forEach((_, k) => {
        text(matrix.drawing, 30, 8 + (272 / n) * (k + 0.5) + 4, k + 1, { class: "tick", "text-anchor": "end" });
        text(matrix.drawing, 40 + (272 / n) * (k + 0.5), 296, found.columns[k].toFixed(2), { class: "tick", "text-anchor": "middle" });
      });
      text(matrix.drawing, 176, 314, "sum of the column of each score", { class: "label", "text-anchor": "middle" });
      text(matrix.drawing, 12, 144, "rank", { class: "label", "text-anchor": "middle", transform: "rotate(-90 12 144)" });
      matrix.title(`Soft permutation at τ = ${format(state.tau)}`);

      curves.clear();
      const [tx, ty] = axes(curves.drawing, { x: [-2, 2], y: [-2, 2], height: 320, xTicks: [[-2, "−2"], [0, "0"], [2, "2"]],
        yTicks: [[-2, "−2"], [0, "0"], [2, "2"]], xLabel: "score 1", yLabel: "sorted values" });
      state.s.forEach((_, k) => svg("path", { d: path(MOVES.map((score, at) => [tx(score), ty(found.moved[at][k])])), class: "curve" },
        curves.drawing));
      line(curves.drawing, tx(state.s[0]), 10, tx(state.s[0]), 286, { class: "guide" });
      found.sorted.forEach((s) => svg("circle", { cx: tx(state.s[0]), cy: ty(s), r: 5, class: "cursor" }, curves.drawing));
      curves.title("Soft sorted values as score 1 moves");
    };
    return { update, numbers };
  };

  /** Softmax and ESP attention of the same queries and keys, on one colour scale. */
  PANELS.attention = (panel, state) => {
    const maps = ["ESP attention", "Softmax attention"].map((name) => view(panel, 400, `${name}: matrix and sums of its columns`));
    slider(panel, { label: "Temperature τ of the sort", min: -3, max: 1.5, step: 0.05, value: Math.log10(state.tau),
      read: (exponent) => 10 ** exponent, onInput: (tau) => { state.tau = tau; panel.update?.(); } });
    slider(panel, { label: "Inverse temperature β", min: -2, max: 2, step: 0.05, value: Math.log10(state.beta),
      read: (exponent) => 10 ** exponent, onInput: (beta) => { state.beta = beta; panel.update?.(); } });
    slider(panel, { label: "Dimension d", min: 1, max: state.q[0].length, step: 1, value: state.d, show: String,
      onInput: (d) => { state.d = d; panel.update?.(); } });

    const numbers = () => {
      const [q, k] = [state.q, state.k].map((points) => points.map((point) => point.slice(0, state.d)));
      const matrices = [espref.espAttention(q, k, state.tau, state.beta), espref.softmaxAttention(q, k)];
      return { matrices, columns: matrices.map(espref.columnSums), keys: matrices.map(espref.effectiveKeys) };
    };

    const update = () => {
      const found = numbers();
      const n = state.q.length;
      const most = Math.max(...found.matrices.flat(2));
      const tallest = Math.max(...found.columns.flat(), 1);
      maps.forEach((target, which) => {
        target.clear();
        heatMap(target.drawing, found.matrices[which], most, { left: 40, top: 8, size: 272 });
        text(target.drawing, 12, 144, "queries", { class: "label", "text-anchor": "middle", transform: "rotate(-90 12 144)" });
        found.columns[which].forEach((total, j) => svg("rect", { x: 40 + (272 / n) * j + 2, width: 272 / n - 4,
          y: 368 - (72 * total) / tallest, height: (72 * total) / tallest, class: "source" }, target.drawing));
        line(target.drawing, 40, 368 - 72 / tallest, 312, 368 - 72 / tallest, { class: "guide" });
        text(target.drawing, 36, 372 - 72 / tallest, "1", { class: "tick", "text-anchor": "end" });
        text(target.drawing, 176, 388, "keys, and what each receives in all", { class: "label", "text-anchor": "middle" });
        const name = which ? "Softmax" : "ESP";
        target.title(`${name}: ${format(found.keys[which])} effective keys of ${n}; yellow is ${format(most)}`);
      });
    };
    return { update, numbers };
  };

  // --- start ------------------------------------------------------------------------------------------------------

  /** Replace the static picture of a panel. The panel's state and numbers stay readable, as `element.espref`. */
  function start(panel) {
    const state = JSON.parse(panel.dataset.state);
    panel.querySelector(".static")?.remove();
    for (const name of ["controls", "views"]) panel.append(Object.assign(document.createElement("div"), { className: name }));
    const built = PANELS[panel.dataset.panel](panel, state);
    panel.update = built.update;
    panel.espref = { state, ...built };
    panel.querySelectorAll("input").forEach((input) => input.dispatchEvent(new Event("input")));
    panel.update();
    panel.classList.add("ready");
  }

  const startAll = () => document.querySelectorAll(".espref-panel").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
