// The protocol of `ctcx conformance --command`: one problem a line, one answer a line.

import {createInterface} from "node:readline";

const words = {"inf": Infinity, "-inf": -Infinity, "nan": NaN};
const read = (key, value) => (typeof value === "string" && key !== "id" && value in words)
  ? words[value] : value;
// JSON.stringify would write null.
const write = (_, value) => typeof value === "number" && !Number.isFinite(value)
  ? (Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf") : value;

/** Answer every problem with what `solve` returns: {loss, gradient}, or {unsupported: "why"}. */
export async function answerAll(solve) {
  for await (const line of createInterface({input: process.stdin, crlfDelay: Infinity})) {
    const problem = JSON.parse(line, read);
    const labels = problem.labels.map((row, n) => row.slice(0, problem.label_lengths[n]));
    let answer;
    try {
      answer = solve({...problem, labels});
    } catch (error) {
      answer = {error: String(error)};
    }
    process.stdout.write(JSON.stringify({id: problem.id, ...answer}, write) + "\n");
  }
}
