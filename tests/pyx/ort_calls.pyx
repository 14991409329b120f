"""Stands between an instance and ONNX Runtime's `Run`: counts the calls, keeps some from the engine, ends others."""

from libc.stddef cimport size_t

from triton_async.backends.onnxruntime.api cimport (
    ort_run,
    ort_run_options,
    ort_run_set_terminate,
    ort_run_unset_terminate,
    ort_session,
    ort_status,
    ort_table,
    ort_value,
)
from triton_async.backends.onnxruntime.instance cimport OnnxRuntimeInstance

cdef extern from *:
    """
    #include "ort_api.h"
    #include <string.h>
    static ort_entry table[ORT_RESIZED_STRING_BUFFER + 1];
    static ort_table replace_run(ort_table original, void *run) {
        memcpy(table, original, sizeof(table));
        table[ORT_RUN] = (ort_entry)run;
        return table;
    }
    """
    ort_table replace_run(ort_table original, void *run)

cdef ort_table original = NULL
cdef int calls = 0
cdef int skipped = 0


cdef ort_status *_run(ort_session *session, const ort_run_options *options, const char **input_names,
                      const ort_value **inputs, size_t n_inputs, const char **output_names, size_t n_outputs,
                      ort_value **outputs) noexcept nogil:
    global calls, skipped
    calls += 1
    if skipped:
        skipped -= 1
        return NULL
    return ort_run(original, session, options, input_names, inputs, n_inputs, output_names, n_outputs, outputs)


def watch(OnnxRuntimeInstance instance):
    """From here on its runs are counted; one instance at a time."""
    global original, calls
    original = instance.engine.api
    instance.engine.api = replace_run(original, <void *>_run)
    calls = 0


def count():
    """Runs that began since `watch`."""
    return calls


def skip(int count):
    """The next `count` runs succeed and write nothing."""
    global skipped
    skipped = count


def set_terminate(OnnxRuntimeInstance instance):
    assert ort_run_set_terminate(instance.engine.api, instance.run_options) == NULL


def unset_terminate(OnnxRuntimeInstance instance):
    assert ort_run_unset_terminate(instance.engine.api, instance.run_options) == NULL
