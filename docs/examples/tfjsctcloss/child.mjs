// ctcx conformance --command "node child.mjs"
//
// The npm package tfjsctcloss takes no lengths, and its blank is the last class. So each sequence
// goes in alone, cut to its length, with the blank exchanged with the last class. The labels are
// padded with the blank to the length of the logits, as its README says.

import * as tf from "@tensorflow/tfjs";
import {answerAll} from "../node/lines.mjs";
import {ctcLossGradient} from "tfjsctcloss";

await tf.setBackend("cpu");

function one(rows, labels, blank) {
  const last = rows[0].length - 1;
  const exchange = row => { const r = [...row]; [r[blank], r[last]] = [r[last], r[blank]]; return r; };
  const place = k => k === last ? blank : k;
  const hot = rows.map((row, t) => {
    const k = t < labels.length ? place(labels[t]) : last;
    return row.map((_, c) => Number(c === k));
  });
  const x = tf.tensor3d([rows.map(exchange)]), y = tf.tensor3d([hot]);
  const {value, grad} = tf.valueAndGrad(z => ctcLossGradient(y, z).sum())(x);
  return {loss: value.arraySync(), gradient: grad.arraySync()[0].map(exchange)};
}

await answerAll(({logits, labels, blank, logit_lengths: lengths}) => {
  if (lengths.some((length, n) => labels[n].length > length))
    return {unsupported: "more labels than frames: its labels have the shape of the logits"};
  if (lengths.includes(0)) return {unsupported: "a sequence without frames"};
  const answers = logits.map((rows, n) => one(rows.slice(0, lengths[n]), labels[n], blank));
  return {
    loss: answers.map(a => a.loss),
    gradient: answers.map((a, n) =>
      [...a.gradient, ...logits[n].slice(lengths[n]).map(row => row.map(() => 0))]),
  };
});
