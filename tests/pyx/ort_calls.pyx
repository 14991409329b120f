"""Stands between an instance and ONNX Runtime's `Run`: counts the calls, keeps some from the engine, ends others."""

from libc.stddef cimport size_t

from triton_async.backends.onnxruntime.api cimport (
    Environment,
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
from triton_async.backends.onnxruntime.values cimport set_release_table

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

cdef extern from *:
    """
    #include <time.h>
    static ort_entry releases[ORT_RESIZED_STRING_BUFFER + 1];
    static ort_table released_by;
    static char released[64];
    static int n_released;
    static void note_release(char what) { if (n_released < 63) released[n_released++] = what; }
    static void slow_release_value(ort_value *value) {
        nanosleep(&(struct timespec){0, 50000000}, NULL);
        note_release('v');
        ort_release_value(released_by, value);
    }
    static void noted_release_env(ort_env *env) {
        note_release('e');
        ort_release_env(released_by, env);
    }
    static ort_table replace_releases(ort_table original) {
        memcpy(releases, original, sizeof(releases));
        released_by = original;
        memset(released, 0, sizeof(released));
        n_released = 0;
        releases[ORT_RELEASE_VALUE] = (ort_entry)slow_release_value;
        releases[ORT_RELEASE_ENV] = (ort_entry)noted_release_env;
        return releases;
    }
    """
    const char *released
    ort_table replace_releases(ort_table original)

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


def watch_releases(Environment environment):
    """From here on its end is noted, and that of values, which takes a while."""
    cdef ort_table table = replace_releases(environment.library.api)
    environment.library.api = table
    set_release_table(table)


def released_so_far():
    """`v` for each value, `e` for the environment, in order."""
    return (<bytes>released).decode()


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
