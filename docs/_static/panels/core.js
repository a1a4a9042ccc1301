"use strict";
/*
 * The numerical core of the panels: the same definitions as in the Python package, for a handful of points.
 *
 * A cloud is an array of points [x, y], a matrix an array of rows. Weights are uniform, 1/n and 1/m. The browser tests
 * compare every function with NumPy on random states.
 */
globalThis.espref = (() => {
  const range = (n) => Array.from({ length: n }, (_, i) => i);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const dot = (p, q) => sum(p.map((value, k) => value * q[k]));
  const squared = (p, q) => sum(p.map((value, k) => (value - q[k]) ** 2));
  const zeros = (n, m) => range(n).map(() => new Array(m).fill(0));
  const softmax = (logits) => {
    const most = Math.max(...logits);
    const powers = logits.map((value) => Math.exp(value - most));
    const total = sum(powers);
    return powers.map((value) => value / total);
  };

  /** The direction (cos t, sin t). */
  const direction = (angle) => [Math.cos(angle), Math.sin(angle)];

  /** Angles of n equispaced directions: midpoints of n equal arcs of the half circle. */
  const equispaced = (n) => range(n).map((l) => (Math.PI * (2 * l + 1)) / (2 * n));

  /** <point, direction> for every point. */
  const project = (points, theta) => points.map((point) => dot(point, theta));

  /** Indices in ascending order of the values; equal values keep their order. */
  const argsort = (values) => range(values.length).sort((i, j) => values[i] - values[j] || i - j);

  /** Classes of equal values in ascending order, each an array of indices. */
  const classes = (values) => {
    const found = [];
    for (const i of argsort(values)) {
      const last = found.at(-1);
      if (last && values[last[0]] === values[i]) last.push(i);
      else found.push([i]);
    }
    return found;
  };

  /**
   * The optimal plan on the line: sort both sides and match mass from left to right. Equal values share their mass
   * (ties are split). Mass is counted in units of 1/(n m), so that all comparisons are between whole numbers.
   */
  const linePlan = (u, v) => {
    const [n, m] = [u.length, v.length];
    const plan = zeros(n, m);
    const [source, target] = [classes(u), classes(v)];
    let [i, j] = [0, 0];
    let [left, room] = [source[0].length * m, target[0].length * n];
    for (;;) {
      const mass = Math.min(left, room);
      const share = mass / (n * m) / (source[i].length * target[j].length);
      for (const a of source[i]) for (const b of target[j]) plan[a][b] += share;
      left -= mass;
      room -= mass;
      if (left === 0) {
        i += 1;
        if (i === source.length) return plan;
        left = source[i].length * m;
      }
      if (room === 0) {
        j += 1;
        room = target[j].length * n;
      }
    }
  };

  /** sum_ij |x_i - y_j|^2 plan_ij. */
  const planCost = (plan, x, y) =>
    sum(plan.map((row, i) => sum(row.map((mass, j) => (mass ? mass * squared(x[i], y[j]) : 0)))));

  /** The plan of one slice, and its cost in the plane. */
  const slice = (x, y, angle) => {
    const theta = direction(angle);
    const plan = linePlan(project(x, theta), project(y, theta));
    return { plan, cost: planCost(plan, x, y) };
  };

  /** Gibbs weights of slices, proportional to exp(-beta cost). */
  const gibbs = (costs, beta) => softmax(costs.map((cost) => -beta * cost));

  /** 1 / sum w^2: the effective number of slices. */
  const effectiveNumber = (weights) => 1 / sum(weights.map((w) => w * w));

  /** sum_l w_l G_l. */
  const average = (plans, weights) =>
    plans[0].map((row, i) => row.map((_, j) => sum(plans.map((plan, l) => weights[l] * plan[i][j]))));

  /** The expected sliced plan: its matrix and cost, and the costs and weights of the slices. */
  const expectedPlan = (x, y, angles, beta) => {
    const slices = angles.map((angle) => slice(x, y, angle));
    const costs = slices.map((found) => found.cost);
    const weights = gibbs(costs, beta);
    return { plan: average(slices.map((found) => found.plan), weights), cost: dot(costs, weights), costs, weights };
  };

  /** SoftSort with the Laplace kernel: row i is proportional to exp(-|s_(i) - s_j| / tau), s_(i) the i-th least score. */
  const softPermutation = (s, tau) => {
    const sorted = argsort(s).map((i) => s[i]);
    return sorted.map((value) => softmax(s.map((score) => -Math.abs(value - score) / tau)));
  };

  /** The soft sorted values: the soft permutation applied to the scores. */
  const softSort = (s, tau) => softPermutation(s, tau).map((row) => dot(row, s));

  /** The soft plan between n and n points on the line: P^T Q / n. */
  const softLinePlan = (u, v, tau) => {
    const n = u.length;
    const [P, Q] = [softPermutation(u, tau), softPermutation(v, tau)];
    return u.map((_, i) => v.map((__, j) => sum(range(n).map((k) => P[k][i] * Q[k][j])) / n));
  };

  /** Softmax attention: row i is proportional to exp(<q_i, k_j> / sqrt(d)). */
  const softmaxAttention = (q, k) => q.map((query) => softmax(k.map((key) => dot(query, key) / Math.sqrt(query.length))));

  /** ESP attention along the axes, soft sort: n times the mean of the soft plans with Gibbs weights. */
  const espAttention = (q, k, tau, beta) => {
    const n = q.length;
    const plans = range(q[0].length).map((axis) =>
      softLinePlan(q.map((point) => point[axis]), k.map((point) => point[axis]), tau));
    const weights = gibbs(plans.map((plan) => planCost(plan, q, k)), beta);
    return average(plans, weights).map((row) => row.map((mass) => n * mass));
  };

  /** Sums of the columns of a matrix. */
  const columnSums = (matrix) => matrix[0].map((_, j) => sum(matrix.map((row) => row[j])));

  /** exp(entropy) of each row, averaged over the rows: the effective number of keys per query. */
  const effectiveKeys = (matrix) =>
    sum(matrix.map((row) => {
      const total = sum(row);
      return Math.exp(-sum(row.map((w) => (w > 0 ? (w / total) * Math.log(w / total) : 0))));
    })) / matrix.length;

  return {
    argsort, average, classes, columnSums, direction, effectiveKeys, effectiveNumber, equispaced, espAttention,
    expectedPlan, gibbs, linePlan, planCost, project, slice, softLinePlan, softPermutation, softSort, softmaxAttention,
  };
})();
