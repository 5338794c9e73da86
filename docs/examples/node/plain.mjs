// ctcx conformance --command "node plain.mjs" --dtype float64     (no package needed)

import {ctc} from "./ctc.mjs";
import {answerAll} from "./lines.mjs";

await answerAll(({logits, labels, blank, logit_lengths: lengths}) => {
  const loss = [], gradient = [];
  logits.forEach((rows, n) => {
    const one = ctc(rows.slice(0, lengths[n]), labels[n], blank);
    loss.push(one.loss);
    gradient.push([...one.gradient, ...rows.slice(lengths[n]).map(row => row.map(() => 0))]);
  });
  return {loss, gradient};
});
