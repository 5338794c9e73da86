from ctcx.conformance import BackendConformance


class TestCuda(BackendConformance):
    backend = "cuda"
    namespaces = ("cupy",)
    # CuPy has no bfloat16; test_torch.py covers it.
    dtypes = ("float16", "float32", "float64")
