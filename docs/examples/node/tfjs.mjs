// CTC as an operation of TensorFlow.js, with its own gradient.

import * as tf from "@tensorflow/tfjs";
import {ctc} from "./ctc.mjs";

/**
 * @param {number[][]} labels one list of classes for each sequence
 * @param {tf.Tensor3D} logits [batch, frames, classes]
 * @param {{blank?: number, logitLengths?: number[]}} options
 * @returns {tf.Tensor1D} a loss for each sequence; differentiable
 */
export function ctcLoss(labels, logits, {blank = 0, logitLengths} = {}) {
  const op = tf.customGrad((x, save) => {
    const losses = [], slopes = [];
    x.arraySync().forEach((rows, n) => {
      const length = logitLengths ? logitLengths[n] : rows.length;
      const {loss, gradient} = ctc(rows.slice(0, length), labels[n], blank);
      losses.push(loss);
      slopes.push([...gradient, ...rows.slice(length).map(row => row.map(() => 0))]);
    });
    save([tf.tensor3d(slopes, x.shape)]);
    return {
      value: tf.tensor1d(losses),
      gradFunc: (dy, [slope]) => slope.mul(dy.reshape([-1, 1, 1])),
    };
  });
  return op(logits);
}

/** Loss and gradient of the sum of the losses. */
export function ctcLossAndGradient(labels, logits, options) {
  const f = x => ctcLoss(labels, x, options);
  const {value, grad} = tf.valueAndGrad(f)(logits, tf.ones([logits.shape[0]]));
  return {loss: value.arraySync(), gradient: grad.arraySync()};
}
