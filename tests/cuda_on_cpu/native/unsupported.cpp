// Functions that CuPy links to and that the harness doesn't have: each says so when it is called.
#include <cstdio>

#define COC_UNSUPPORTED(name)                                    \
  extern "C" int name() {                                        \
    fprintf(stderr, "cuda_on_cpu: %s is not supported\n", #name); \
    return 801; /* not supported, for runtime and driver */      \
  }

COC_UNSUPPORTED(cudaCreateSurfaceObject)
COC_UNSUPPORTED(cudaCreateTextureObject)
COC_UNSUPPORTED(cudaDestroySurfaceObject)
COC_UNSUPPORTED(cudaDestroyTextureObject)
COC_UNSUPPORTED(cudaDeviceDisablePeerAccess)
COC_UNSUPPORTED(cudaDeviceEnablePeerAccess)
COC_UNSUPPORTED(cudaFreeArray)
COC_UNSUPPORTED(cudaGetChannelDesc)
COC_UNSUPPORTED(cudaGetTextureObjectResourceDesc)
COC_UNSUPPORTED(cudaGetTextureObjectTextureDesc)
COC_UNSUPPORTED(cudaGraphDebugDotPrint)
COC_UNSUPPORTED(cudaIpcCloseMemHandle)
COC_UNSUPPORTED(cudaIpcGetEventHandle)
COC_UNSUPPORTED(cudaIpcGetMemHandle)
COC_UNSUPPORTED(cudaIpcOpenEventHandle)
COC_UNSUPPORTED(cudaIpcOpenMemHandle)
COC_UNSUPPORTED(cudaMalloc3DArray)
COC_UNSUPPORTED(cudaMallocArray)
COC_UNSUPPORTED(cudaMemAdvise)
COC_UNSUPPORTED(cudaMemPoolCreate)
COC_UNSUPPORTED(cudaMemPoolDestroy)
COC_UNSUPPORTED(cudaMemPrefetchAsync)
COC_UNSUPPORTED(cudaMemcpy2DFromArray)
COC_UNSUPPORTED(cudaMemcpy2DFromArrayAsync)
COC_UNSUPPORTED(cudaMemcpy2DToArray)
COC_UNSUPPORTED(cudaMemcpy2DToArrayAsync)
COC_UNSUPPORTED(cudaMemcpy3D)
COC_UNSUPPORTED(cudaMemcpy3DAsync)
COC_UNSUPPORTED(cuLaunchCooperativeKernel)
COC_UNSUPPORTED(cuLinkAddData_v2)
COC_UNSUPPORTED(cuLinkAddFile_v2)
COC_UNSUPPORTED(cuLinkComplete)
COC_UNSUPPORTED(cuLinkCreate_v2)
COC_UNSUPPORTED(cuLinkDestroy)
