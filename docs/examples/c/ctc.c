/* CTC loss and gradient in C99, and the protocol of `ctcx conformance --command`.

   cc -std=c99 -O2 ctc.c -o ctc -lm && ctcx conformance --command ./ctc --dtype float64 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size);
  if (!memory) { fputs("out of memory\n", stderr); exit(1); }
  return memory;
}

static double log_add(double a, double b) {
  double top = a > b ? a : b;
  return top == -INFINITY ? top : top + log1p(exp((a > b ? b : a) - top));
}

/* Loss in nats of one sequence: T rows of C logits, L labels (Graves et al. 2006, eq. 6 to 16).
   The gradient with respect to the logits goes to T rows of C numbers that are 0 before. */
static double ctc(const double *logits, int T, int C, const int *labels, int L, int blank,
                  double *gradient) {
  int S = 2 * L + 1;
  if (T == 0) return L ? INFINITY : 0.0;
  double *probs = allocate((size_t)T * C, sizeof *probs);
  double *alpha = allocate((size_t)T * S, sizeof *alpha);
  double *beta = allocate((size_t)T * S, sizeof *beta);
  int *state = allocate(S, sizeof *state), *skip = allocate(S, sizeof *skip);
  for (int s = 0; s < S; s++) {
    state[s] = s % 2 ? labels[s / 2] : blank;
    skip[s] = s % 2 && s > 1 && state[s] != state[s - 2];
  }
  for (int t = 0; t < T; t++) { /* log-softmax */
    const double *row = logits + (size_t)t * C;
    double top = -INFINITY, total = 0.0;
    for (int c = 0; c < C; c++) top = row[c] > top ? row[c] : top;
    for (int c = 0; c < C && top > -INFINITY; c++) total += exp(row[c] - top);
    for (int c = 0; c < C; c++)
      probs[(size_t)t * C + c] = top > -INFINITY ? row[c] - top - log(total) : -INFINITY;
  }
#define P(t, s) probs[(size_t)(t) * C + state[s]]
#define A(t, s) alpha[(size_t)(t) * S + (s)]
#define B(t, s) beta[(size_t)(t) * S + (s)]
  for (int t = 0; t < T; t++)
    for (int s = 0; s < S; s++) {
      double from = s < 2 ? 0.0 : -INFINITY;
      if (t) {
        from = A(t - 1, s);
        if (s > 0) from = log_add(from, A(t - 1, s - 1));
        if (skip[s]) from = log_add(from, A(t - 1, s - 2));
      }
      A(t, s) = from + P(t, s);
    }
  for (int t = T - 1; t >= 0; t--)
    for (int s = 0; s < S; s++) {
      double to = s >= S - 2 ? 0.0 : -INFINITY;
      if (t < T - 1) {
        to = B(t + 1, s) + P(t + 1, s);
        if (s + 1 < S) to = log_add(to, B(t + 1, s + 1) + P(t + 1, s + 1));
        if (s + 2 < S && skip[s + 2]) to = log_add(to, B(t + 1, s + 2) + P(t + 1, s + 2));
      }
      B(t, s) = to;
    }
  double likelihood = A(T - 1, S - 1);
  if (S > 1) likelihood = log_add(likelihood, A(T - 1, S - 2));
  for (int t = 0; t < T && likelihood > -INFINITY; t++) {
    double total = -INFINITY; /* the frame's own sum: shared errors drop out */
    for (int s = 0; s < S; s++) total = log_add(total, A(t, s) + B(t, s));
    for (int c = 0; c < C; c++) gradient[(size_t)t * C + c] = exp(probs[(size_t)t * C + c]);
    for (int s = 0; s < S; s++)
      gradient[(size_t)t * C + state[s]] -= exp(A(t, s) + B(t, s) - total);
  }
  free(probs); free(alpha); free(beta); free(state); free(skip);
  return likelihood > 0.0 ? 0.0 : -likelihood;
}

/* Just enough JSON for these lines: members are found by name, arrays are read flat. */

typedef struct { double *values; int count, outer, middle; } numbers;

static const char *member(const char *line, const char *name) {
  char key[32];
  snprintf(key, sizeof key, "\"%s\":", name);
  const char *found = strstr(line, key);
  if (!found) { fprintf(stderr, "no member %s\n", name); exit(1); }
  return found + strlen(key);
}

static numbers read_numbers(const char *text) {
  numbers all = {NULL, 0, 0, 0};
  int depth = 0, room = 0;
  do {
    while (*text == ' ' || *text == ',') text++;
    if (*text == '[') {
      depth++, text++;
      all.outer += depth == 2, all.middle += depth == 3;
    } else if (*text == ']') {
      depth--, text++;
    } else {
      if (all.count == room) {
        room = room ? 2 * room : 64;
        all.values = realloc(all.values, room * sizeof *all.values);
        if (!all.values) { fputs("out of memory\n", stderr); exit(1); }
      }
      int quoted = *text == '"'; /* "inf", "-inf": strtod knows them */
      char *end;
      all.values[all.count++] = strtod(text + quoted, &end);
      text = end + quoted;
    }
  } while (depth);
  return all;
}

static void print_number(double x) {
  if (isnan(x)) fputs("\"nan\"", stdout);
  else if (isinf(x)) fputs(x > 0 ? "\"inf\"" : "\"-inf\"", stdout);
  else printf("%.17g", x);
}

static void answer(const char *line) {
  const char *id = member(line, "id");
  id = strchr(id, '"') + 1;
  int length = (int)(strchr(id, '"') - id), blank = atoi(member(line, "blank"));
  numbers logits = read_numbers(member(line, "logits"));
  numbers labels = read_numbers(member(line, "labels"));
  numbers logit_lengths = read_numbers(member(line, "logit_lengths"));
  numbers label_lengths = read_numbers(member(line, "label_lengths"));
  int N = logits.outer, T = N ? logits.middle / N : 0, C = N > 0 && T > 0 ? logits.count / (N * T) : 0;
  int width = N ? labels.count / N : 0;
  double *loss = allocate(N, sizeof *loss), *gradient = allocate(logits.count, sizeof *gradient);
  int *row = allocate(width, sizeof *row);
  for (int n = 0; n < N; n++) {
    int L = (int)label_lengths.values[n];
    for (int i = 0; i < L; i++) row[i] = (int)labels.values[n * width + i];
    size_t start = (size_t)n * T * C;
    loss[n] = ctc(logits.values + start, (int)logit_lengths.values[n], C, row, L, blank,
                  gradient + start);
  }
  printf("{\"id\": \"%.*s\", \"loss\": [", length, id);
  for (int n = 0; n < N; n++) { if (n) putchar(','); print_number(loss[n]); }
  fputs("], \"gradient\": [", stdout);
  for (int n = 0; n < N; n++) {
    fputs(n ? ",[" : "[", stdout);
    for (int t = 0; t < T; t++) {
      fputs(t ? ",[" : "[", stdout);
      for (int c = 0; c < C; c++) {
        if (c) putchar(',');
        print_number(gradient[((size_t)n * T + t) * C + c]);
      }
      putchar(']');
    }
    putchar(']');
  }
  puts("]}");
  fflush(stdout);
  free(logits.values); free(labels.values); free(logit_lengths.values); free(label_lengths.values);
  free(loss); free(gradient); free(row);
}

int main(void) {
  size_t used = 0, room = 1 << 16;
  char *line = allocate(room, 1);
  while (fgets(line + used, (int)(room - used), stdin)) {
    used += strlen(line + used);
    if (used && line[used - 1] == '\n') {
      answer(line);
      used = 0;
    } else if (room - used < 2) {
      room *= 2;
      line = realloc(line, room);
      if (!line) { fputs("out of memory\n", stderr); return 1; }
    }
  }
  free(line);
  return 0;
}
