// ctcx conformance --command "node child.mjs"

import * as tf from "@tensorflow/tfjs";
import {answerAll} from "./lines.mjs";
import {ctcLossAndGradient} from "./tfjs.mjs";

await tf.setBackend("cpu");
await answerAll(({logits, labels, blank, logit_lengths: logitLengths}) =>
  ctcLossAndGradient(labels, tf.tensor3d(logits), {blank, logitLengths}));
