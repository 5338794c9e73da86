/* The loss and gradient of the notebook's example, by the library that ctcx-cpu installs:

   folder=$(python -c "import ctcx_cpu; print(ctcx_cpu.library_path().parent)")
   cc notebook.c -I "$folder/include" -L "$folder" -lctcx_cpu -Wl,-rpath,"$folder" -o notebook */

#include <stdio.h>

#include "ctcx_cpu.h"

int main(void) {
  const float logits[5][4] = {
      {1, 0, 0, 0}, {0, 0, 0, 1}, {1, 0, 0, 0}, {0, 0, 0, 1}, {0, 0, 0, 1}};
  const int32_t labels[5] = {0, 1, 0, 1, 3}; /* the last one is padding */
  const int32_t logit_length = 5, label_length = 4;
  float loss, gradient[5][4];

  struct ctcx_cpu_batch batch = {0};
  batch.size = sizeof batch;
  batch.major = CTCX_CPU_MAJOR;
  batch.type = CTCX_CPU_FLOAT32;
  batch.sequences = 1;
  batch.frames = 5;
  batch.classes = 4;
  batch.label_positions = 5;
  batch.blank = 3;
  batch.logits = logits;
  batch.logits_sequence_stride = 20;
  batch.logits_frame_stride = 4;
  batch.labels = (struct ctcx_cpu_integers){labels, sizeof *labels, 0, 5, 1};
  batch.logit_lengths = (struct ctcx_cpu_integers){&logit_length, sizeof logit_length, 0, 1, 0};
  batch.label_lengths = (struct ctcx_cpu_integers){&label_length, sizeof label_length, 0, 1, 0};
  batch.losses = &loss;
  batch.gradient = gradient;
  batch.gradient_sequence_stride = 20;
  batch.gradient_frame_stride = 4;

  if (ctcx_cpu_compute(&batch) != CTCX_CPU_OK) {
    const char *fault = ctcx_cpu_check(&batch);
    fprintf(stderr, "%s\n", fault ? fault : "out of memory");
    return 1;
  }
  printf("%.6f\n", loss);
  for (int t = 0; t < 5; t++)
    printf("%.7f %.7f %.7f %.7f\n", gradient[t][0], gradient[t][1], gradient[t][2], gradient[t][3]);
  return 0;
}
