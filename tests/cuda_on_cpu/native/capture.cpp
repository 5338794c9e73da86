// Streams and graphs. Work is done at once, on the calling thread, whatever its stream; only a stream
// that is being captured keeps its work for cudaGraphLaunch.
#include <memory>
#include <mutex>

#include "device.h"

namespace coc {
namespace {

struct Graph {
  std::vector<Work> work;
};

struct Capture {
  cudaStream_t stream = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::unique_ptr<Graph> graph;  // none: nothing is being captured
  bool broken = false;
};

Capture current;

// The device does one thing at a time, whichever thread asks; a host function may ask for more.
std::recursive_mutex mutex;

// Handles 0, 1 and 2 all mean the default stream.
bool is_default(cudaStream_t stream) { return reinterpret_cast<uintptr_t>(stream) <= 2; }

}  // namespace

bool capturing(cudaStream_t stream) { return current.graph && current.stream == stream; }

cudaError_t submit(cudaStream_t stream, Work work) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  if (capturing(stream)) {
    current.graph->work.push_back(std::move(work));
    return cudaSuccess;
  }
  if (current.graph && is_default(stream)) {
    current.broken = true;
    return failed(cudaErrorStreamCaptureImplicit, "work on the default stream while another one is being captured");
  }
  return work();
}

cudaError_t forbid_in_capture(const char* what, bool also_when_relaxed) {
  if (!current.graph || (!also_when_relaxed && current.mode == cudaStreamCaptureModeRelaxed)) return cudaSuccess;
  current.broken = true;
  return failed(cudaErrorStreamCaptureUnsupported, std::string(what) + " while a stream is being captured");
}

}  // namespace coc

using namespace coc;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (current.graph || is_default(stream))
    return failed(cudaErrorStreamCaptureUnsupported, "this stream can't be captured, or another one is");
  current = {stream, mode, std::make_unique<Graph>(), false};
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!capturing(stream)) return failed(cudaErrorIllegalState, "this stream isn't being captured");
  auto recorded = std::move(current.graph);
  if (current.broken) return failed(cudaErrorStreamCaptureInvalidated, "the capture was invalidated by an earlier call");
  *graph = reinterpret_cast<cudaGraph_t>(recorded.release());
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = !capturing(stream) ? cudaStreamCaptureStatusNone
            : current.broken   ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  for (const Work& work : reinterpret_cast<Graph*>(executable)->work)
    if (cudaError_t error = work()) return error;
  return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Graph*>(executable);
  return cudaSuccess;
}
}
