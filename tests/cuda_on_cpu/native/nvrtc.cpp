// NVRTC, the compiler that CuPy calls: writes the source into a directory and lets Python compile it.
#include <dirent.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

enum Result { kSuccess = 0, kOutOfMemory = 1, kCompilation = 6, kNameNotValid = 10, kInternal = 11 };

struct Program {
  std::string source, name, log;
  std::vector<char> image;
  std::vector<std::string> expressions;
  std::vector<std::pair<std::string, std::string>> headers;
  std::map<std::string, std::string> lowered;
};

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::string lines(const std::vector<std::string>& values) {
  std::string text;
  for (const auto& value : values) text += value + "\n";
  return text;
}

int run_compiler(const std::string& directory) {
  pid_t child = fork();
  if (child == 0) {
    unsetenv("LD_PRELOAD");  // the sanitizers are for the kernels, not for the compiler
    execl(COC_PYTHON, COC_PYTHON, "-I", "-S", COC_COMPILER, directory.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  if (child < 0) return -1;
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

extern "C" {

const char* nvrtcGetErrorString(int result) {
  switch (result) {
    case kSuccess: return "NVRTC_SUCCESS";
    case kCompilation: return "NVRTC_ERROR_COMPILATION";
    case kNameNotValid: return "NVRTC_ERROR_NAME_EXPRESSION_NOT_VALID";
    default: return "NVRTC_ERROR_INTERNAL_ERROR";
  }
}
int nvrtcVersion(int* major, int* minor) { *major = 13; *minor = 2; return kSuccess; }
int nvrtcGetNumSupportedArchs(int* count) { *count = 6; return kSuccess; }
int nvrtcGetSupportedArchs(int* archs) {
  const int known[] = {75, 80, 86, 90, 100, 120};
  memcpy(archs, known, sizeof known);
  return kSuccess;
}

int nvrtcCreateProgram(Program** program, const char* source, const char* name, int count, const char* const* headers,
                       const char* const* names) {
  auto* made = new Program;
  made->source = source;
  made->name = name ? name : "kernel.cu";
  for (int i = 0; i < count; ++i) made->headers.push_back({names[i], headers[i]});
  *program = made;
  return kSuccess;
}
int nvrtcDestroyProgram(Program** program) {
  delete *program;
  *program = nullptr;
  return kSuccess;
}
int nvrtcAddNameExpression(Program* program, const char* expression) {
  program->expressions.push_back(expression);
  return kSuccess;
}
int nvrtcGetLoweredName(Program* program, const char* expression, const char** lowered) {
  auto found = program->lowered.find(expression);
  if (found == program->lowered.end()) return kNameNotValid;
  *lowered = found->second.c_str();
  return kSuccess;
}
int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
  if (program->source.empty()) {  // how CuPy asks which compiler this is: for the first lines of PTX
    const char text[] = "// CUDA on CPU\n";
    program->image.assign(text, text + sizeof text);
    return kSuccess;
  }
  char name[] = "/tmp/cuda_on_cpu_XXXXXX";
  if (!mkdtemp(name)) return kInternal;
  fs::path directory = name;
  write(directory / "source.cu", program->source);
  write(directory / "name", program->name);
  write(directory / "options", lines({options, options + count}));
  write(directory / "expressions", lines(program->expressions));
  for (const auto& [path, text] : program->headers) write(directory / "headers" / path, text);
  int status = run_compiler(name);
  program->log = read(directory / "log");
  std::string image = read(directory / "module.so");
  fs::remove_all(directory);
  if (status != 0 || image.empty()) return kCompilation;
  program->image.assign(image.begin(), image.end());
  program->image.push_back(0);  // CuPy reads one byte less than the size it is told
  for (size_t i = 0; i < program->expressions.size(); ++i)
    program->lowered[program->expressions[i]] = "expression_" + std::to_string(i);
  return kSuccess;
}

int nvrtcGetCUBINSize(Program* program, size_t* size) { *size = program->image.size(); return kSuccess; }
int nvrtcGetCUBIN(Program* program, char* image) {
  memcpy(image, program->image.data(), program->image.size());
  return kSuccess;
}
int nvrtcGetPTXSize(Program* program, size_t* size) { return nvrtcGetCUBINSize(program, size); }
int nvrtcGetPTX(Program* program, char* image) { return nvrtcGetCUBIN(program, image); }
int nvrtcGetLTOIRSize(Program*, size_t* size) { *size = 0; return kSuccess; }
int nvrtcGetLTOIR(Program*, char*) { return kSuccess; }
int nvrtcGetProgramLogSize(Program* program, size_t* size) { *size = program->log.size() + 1; return kSuccess; }
int nvrtcGetProgramLog(Program* program, char* log) {
  strcpy(log, program->log.c_str());
  return kSuccess;
}
}
