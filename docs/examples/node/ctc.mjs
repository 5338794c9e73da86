// CTC loss, gradient and greedy decoding of one sequence in plain JavaScript
// (Graves et al. 2006, eq. 4 and 6 to 16).

const logAdd = (a, b) => {
  const top = Math.max(a, b);
  return top === -Infinity ? top : top + Math.log1p(Math.exp(Math.min(a, b) - top));
};

function logSoftmax(row) {
  const top = Math.max(...row);
  if (top === -Infinity) return row.map(() => -Infinity);
  const total = Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0));
  return row.map(x => x - top - total);
}

/**
 * Greedy decoding: the most probable class of each frame, repeats merged, blanks left out.
 *
 * @param {number[][]} logits T rows of C numbers, before the softmax
 * @param {number} blank the blank class
 * @returns {{labels: number[], score: number}} the lowest of equal classes counts; score is the
 *   log-probability of the path, in nats
 */
export function greedy(logits, blank) {
  const path = logits.map(row => row.indexOf(Math.max(...row)));
  return {
    labels: path.filter((k, t) => k !== blank && k !== path[t - 1]),
    score: path.reduce((sum, k, t) => sum + logSoftmax(logits[t])[k], 0),
  };
}

/**
 * @param {number[][]} logits T rows of C numbers, before the softmax
 * @param {number[]} labels classes, without blanks
 * @param {number} blank the blank class
 * @returns {{loss: number, gradient: number[][]}} loss in nats, Infinity if the labels can't be
 *   emitted; gradient with respect to the logits
 */
export function ctc(logits, labels, blank) {
  const frames = logits.length;
  const zeros = () => logits.map(row => row.map(() => 0));
  if (!frames) return {loss: labels.length ? Infinity : 0, gradient: []};
  const states = [blank];
  for (const label of labels) states.push(label, blank);
  const width = states.length;
  const skips = states.map((k, s) => s % 2 === 1 && s > 1 && k !== states[s - 2]);
  const logProbs = logits.map(logSoftmax);

  const alpha = [];
  for (let t = 0; t < frames; t++) {
    alpha.push(states.map((k, s) => {
      let from;
      if (t === 0) from = s < 2 ? 0 : -Infinity;
      else {
        from = alpha[t - 1][s];
        if (s > 0) from = logAdd(from, alpha[t - 1][s - 1]);
        if (skips[s]) from = logAdd(from, alpha[t - 1][s - 2]);
      }
      return from + logProbs[t][k];
    }));
  }
  const beta = new Array(frames);
  for (let t = frames - 1; t >= 0; t--) {
    beta[t] = states.map((_, s) => {
      if (t === frames - 1) return s >= width - 2 ? 0 : -Infinity;
      let to = beta[t + 1][s] + logProbs[t + 1][states[s]];
      if (s + 1 < width) to = logAdd(to, beta[t + 1][s + 1] + logProbs[t + 1][states[s + 1]]);
      if (s + 2 < width && skips[s + 2])
        to = logAdd(to, beta[t + 1][s + 2] + logProbs[t + 1][states[s + 2]]);
      return to;
    });
  }

  const last = alpha[frames - 1];
  const logLikelihood = width > 1 ? logAdd(last[width - 1], last[width - 2]) : last[0];
  if (logLikelihood === -Infinity) return {loss: Infinity, gradient: zeros()};
  const gradient = logProbs.map(row => row.map(Math.exp));
  for (let t = 0; t < frames; t++) {
    const joint = states.map((_, s) => alpha[t][s] + beta[t][s]);
    // The frame's own sum: errors that all of its states share drop out.
    const total = joint.reduce(logAdd);
    joint.forEach((x, s) => { gradient[t][states[s]] -= Math.exp(x - total); });
  }
  return {loss: Math.max(0, -logLikelihood), gradient};
}
