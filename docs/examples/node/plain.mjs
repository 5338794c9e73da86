// ctcx conformance --command "node plain.mjs" --dtype float64     (no package needed)

import {ctc, greedy} from "./ctc.mjs";
import {answerAll} from "./lines.mjs";

function lossAndGradient({logits, labels, blank, logit_lengths: lengths}) {
  const loss = [], gradient = [];
  logits.forEach((rows, n) => {
    const one = ctc(rows.slice(0, lengths[n]), labels[n], blank);
    loss.push(one.loss);
    gradient.push([...one.gradient, ...rows.slice(lengths[n]).map(row => row.map(() => 0))]);
  });
  return {loss, gradient};
}

function decoded({logits, blank, logit_lengths: lengths}) {
  const found = logits.map((rows, n) => greedy(rows.slice(0, lengths[n]), blank));
  return {labels: found.map(one => one.labels), score: found.map(one => one.score)};
}

await answerAll(problem => {
  switch (problem.operation ?? "loss") {
    case "loss": return lossAndGradient(problem);
    case "greedy": return decoded(problem);
    default: return {unsupported: `there is no ${problem.operation} here`};
  }
});
