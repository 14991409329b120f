/* Has Python running for a program that calls the library: the interpreter that is there, or one that is started.
 *
 * Nothing of Python is linked: its functions are looked up in the process, or in the shared library of Python that the
 * package was built with, which TRITON_ASYNC_LIBPYTHON overrides. Which environment it has follows from where the package
 * lies, or from TRITON_ASYNC_PYTHON, the path of an interpreter.
 */
#define _GNU_SOURCE
#include "server.h"

#include <dlfcn.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#ifndef TA_LIBPYTHON
#define TA_LIBPYTHON ""
#endif
#ifndef TA_PYTHON
#define TA_PYTHON ""
#endif

static struct {
    int (*is_initialized)(void);
    void (*initialize)(int signals);
    void (*set_program)(const wchar_t *name);
    wchar_t *(*decode)(const char *text, size_t *length);
    void *(*save_thread)(void);
    int (*ensure)(void);
    void (*release)(int state);
    void *(*import)(const char *name);
    void *(*get_object)(const char *name);
    void *(*decode_path)(const char *path);
    int (*append)(void *list, void *item);
    void (*forget)(void *object);
    void (*fetch)(void **type, void **value, void **trace);
    void *(*text)(void *object);
    const char *(*utf8)(void *text);
    void (*clear)(void);
} python;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool find_all(void *library) {
    static const char *const NAMES[] = {
        "Py_IsInitialized", "Py_InitializeEx", "Py_SetProgramName", "Py_DecodeLocale", "PyEval_SaveThread",
        "PyGILState_Ensure", "PyGILState_Release", "PyImport_ImportModule", "PySys_GetObject",
        "PyUnicode_DecodeFSDefault", "PyList_Append", "Py_DecRef", "PyErr_Fetch", "PyObject_Str", "PyUnicode_AsUTF8",
        "PyErr_Clear"};
    void **places = (void **)&python;
    for (size_t i = 0; i < sizeof(NAMES) / sizeof(NAMES[0]); i++) {
        places[i] = dlsym(library, NAMES[i]);
        if (places[i] == NULL)
            return false;
    }
    return true;
}

/* Looked up each time: another thread may be filling the table. */
void *ta_pause_python(void) {
    int (*is_initialized)(void);
    void *(*own_state)(void), *(*state_with_gil)(void), *(*save_thread)(void);
    *(void **)&is_initialized = dlsym(RTLD_DEFAULT, "Py_IsInitialized");
    *(void **)&own_state = dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState");
    *(void **)&save_thread = dlsym(RTLD_DEFAULT, "PyEval_SaveThread");
    *(void **)&state_with_gil = dlsym(RTLD_DEFAULT, "PyThreadState_GetUnchecked");
    if (state_with_gil == NULL) /* before 3.13 */
        *(void **)&state_with_gil = dlsym(RTLD_DEFAULT, "_PyThreadState_UncheckedGet");
    if (is_initialized == NULL || own_state == NULL || state_with_gil == NULL || save_thread == NULL ||
        !is_initialized())
        return NULL;
    void *state = own_state();
    return state != NULL && state == state_with_gil() ? save_thread() : NULL;
}

void ta_resume_python(void *paused) {
    void (*restore_thread)(void *state);
    if (paused == NULL)
        return;
    *(void **)&restore_thread = dlsym(RTLD_DEFAULT, "PyEval_RestoreThread");
    restore_thread(paused);
}

/* -- Threads that are not Python's, and that ask often */

/* What a thread has of Python to its end. */
typedef struct kept {
    struct kept *next; /* behind its thread's end */
    void *state;
} kept;

static struct {
    void *(*own_state)(void);
    int (*ensure)(void);
    void *(*save_thread)(void);
    void (*clear)(void *state);
    void (*delete)(void *state);
} threads;
static pthread_once_t threads_once = PTHREAD_ONCE_INIT;
static pthread_key_t kept_key;
static _Thread_local bool attached, foreign;
static _Atomic(kept *) left; /* by threads that have ended: who has the GIL next frees it */

/* At the end of a thread, which must not wait for the GIL: whoever has it may be waiting for the thread. */
static void detach(void *mine) {
    kept *one = mine;
    one->next = atomic_load(&left);
    while (!atomic_compare_exchange_weak(&left, &one->next, one))
        ;
}

static void find_threads(void) {
    *(void **)&threads.own_state = dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState");
    *(void **)&threads.ensure = dlsym(RTLD_DEFAULT, "PyGILState_Ensure");
    *(void **)&threads.save_thread = dlsym(RTLD_DEFAULT, "PyEval_SaveThread");
    *(void **)&threads.clear = dlsym(RTLD_DEFAULT, "PyThreadState_Clear");
    *(void **)&threads.delete = dlsym(RTLD_DEFAULT, "PyThreadState_Delete");
    if (threads.own_state == NULL || threads.ensure == NULL || threads.save_thread == NULL || threads.clear == NULL ||
        threads.delete == NULL || pthread_key_create(&kept_key, detach) != 0)
        threads.own_state = NULL;
}

void ta_attach_thread(void) {
    if (attached)
        return;
    attached = true;
    pthread_once(&threads_once, find_threads);
    if (threads.own_state == NULL || threads.own_state() != NULL)
        return;
    kept *mine = calloc(1, sizeof(*mine));
    if (mine == NULL || pthread_setspecific(kept_key, mine) != 0) {
        free(mine);
        return;
    }
    threads.ensure();
    for (kept *one = atomic_exchange(&left, NULL), *next; one != NULL; one = next) {
        next = one->next;
        threads.clear(one->state);
        threads.delete(one->state);
        free(one);
    }
    mine->state = threads.save_thread();
    foreign = true;
}

bool ta_is_foreign(void) {
    if (attached)
        return foreign;
    pthread_once(&threads_once, find_threads);
    return threads.own_state != NULL && threads.own_state() == NULL;
}

/* -- Staying out, while whoever has the GIL waits for such threads */

static _Atomic bool refused;
static _Atomic uint64_t n_foreign; /* in calls, and requests on their way */

void ta_count_request(int change) {
    atomic_fetch_add(&n_foreign, (uint64_t)(int64_t)change);
}

TRITONSERVER_Error *ta_enter(const TRITONSERVER_Server *server, bool *is_foreign) {
    *is_foreign = (server == NULL || !server->inner) && ta_is_foreign();
    if (!*is_foreign)
        return NULL;
    ta_count_request(1);
    if (!atomic_load(&refused))
        return NULL;
    ta_count_request(-1);
    *is_foreign = false;
    return ta_error(TRITONSERVER_ERROR_UNAVAILABLE, "Server exiting");
}

void ta_leave(bool is_foreign) {
    if (is_foreign)
        ta_count_request(-1);
}

EXPORT void ta_refuse_foreign(bool refuse) {
    atomic_store(&refused, refuse);
}

EXPORT uint64_t ta_count_foreign(void) {
    return atomic_load(&n_foreign);
}

/* The folder that the package `triton_async` lies in: this library is triton_async/lib/libtritonserver.so there. */
static bool package_folder(char *folder) {
    Dl_info info;
    if (dladdr((void *)&ta_start_python, &info) == 0 || realpath(info.dli_fname, folder) == NULL)
        return false;
    for (int i = 0; i < 3; i++) {
        char *slash = strrchr(folder, '/');
        if (slash == NULL)
            return false;
        *slash = 0;
    }
    return true;
}

/* A virtual environment has its packages in lib/python3.x/site-packages below what holds pyvenv.cfg. */
static bool environment_of(const char *folder, char *program) {
    char root[PATH_MAX];
    snprintf(root, sizeof(root), "%s", folder);
    for (int i = 0; i < 3; i++) {
        char *slash = strrchr(root, '/');
        if (slash == NULL)
            return false;
        *slash = 0;
    }
    if (snprintf(program, PATH_MAX, "%s/pyvenv.cfg", root) >= PATH_MAX || access(program, R_OK) != 0)
        return false;
    return snprintf(program, PATH_MAX, "%s/bin/python", root) < PATH_MAX;
}

static TRITONSERVER_Error *initialize(const char *folder) {
    static wchar_t *name; /* Python keeps the pointer */
    char program[PATH_MAX];
    const char *asked = getenv("TRITON_ASYNC_PYTHON");
    if (asked != NULL && *asked != 0)
        snprintf(program, sizeof(program), "%s", asked);
    else if (!environment_of(folder, program))
        snprintf(program, sizeof(program), "%s", TA_PYTHON);
    if (*program != 0 && access(program, X_OK) == 0 && (name = python.decode(program, NULL)) != NULL)
        python.set_program(name);
    else if (asked != NULL && *asked != 0)
        return ta_error(TRITONSERVER_ERROR_INTERNAL, "TRITON_ASYNC_PYTHON: '%s' can not be run", asked);
    python.initialize(0);
    return NULL;
}

static TRITONSERVER_Error *load_python(void) {
    if (find_all(RTLD_DEFAULT))
        return NULL;
    const char *path = getenv("TRITON_ASYNC_LIBPYTHON");
    if (path == NULL || *path == 0)
        path = TA_LIBPYTHON;
    if (*path == 0)
        return ta_error(
            TRITONSERVER_ERROR_INTERNAL, "the Python that this package was built with has no shared library: name one "
                                         "in TRITON_ASYNC_LIBPYTHON");
    /* For all: Python's own extension modules look its functions up in the process. */
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (library == NULL)
        return ta_error(TRITONSERVER_ERROR_INTERNAL, "Python can not be loaded: %s", dlerror());
    if (!find_all(library))
        return ta_error(TRITONSERVER_ERROR_INTERNAL, "'%s' is not Python's shared library, or one too new", path);
    return NULL;
}

/* With the GIL. */
static TRITONSERVER_Error *import_package(const char *folder) {
    void *module = python.import("triton_async.embedding.capi");
    if (module == NULL) {
        python.clear();
        void *path = python.get_object("path"), *item = python.decode_path(folder);
        if (path != NULL && item != NULL)
            python.append(path, item);
        if (item != NULL)
            python.forget(item);
        module = python.import("triton_async.embedding.capi");
    }
    if (module != NULL)
        return NULL; /* it stays, and has registered its calls */
    void *type = NULL, *value = NULL, *trace = NULL;
    python.fetch(&type, &value, &trace);
    void *text = value == NULL ? NULL : python.text(value);
    const char *reason = text == NULL ? NULL : python.utf8(text);
    TRITONSERVER_Error *error = ta_error(
        TRITONSERVER_ERROR_INTERNAL, "the package triton_async can not be imported: %s",
        reason == NULL ? "unknown reason" : reason);
    if (text != NULL)
        python.forget(text);
    python.clear();
    return error;
}

/* In a process without Python. One thread at a time, without the GIL. */
static TRITONSERVER_Error *start(const char *folder) {
    TRY(load_python());
    if (python.is_initialized())
        return NULL;
    struct sigaction before;
    sigaction(SIGINT, NULL, &before);
    TRY(initialize(folder));
    /* Importing it has Python take SIGINT, which is the program's. */
    void *module = python.import("signal");
    if (module == NULL)
        python.clear();
    else
        python.forget(module);
    sigaction(SIGINT, &before, NULL);
    python.save_thread();
    return NULL;
}

TRITONSERVER_Error *ta_start_python(void) {
    char folder[PATH_MAX];
    if (ta_control != NULL && ta_infer != NULL)
        return NULL; /* the package has loaded this library, or was imported before */
    if (!package_folder(folder))
        return ta_error(TRITONSERVER_ERROR_INTERNAL, "the library does not lie in the package triton_async");
    /* The caller may have the GIL of a Python that is there: nothing of ours is locked then. */
    if (!find_all(RTLD_DEFAULT) || !python.is_initialized()) {
        pthread_mutex_lock(&lock);
        TRITONSERVER_Error *error = start(folder);
        pthread_mutex_unlock(&lock);
        if (error != NULL)
            return error;
    }
    int state = python.ensure();
    TRITONSERVER_Error *error = import_package(folder);
    python.release(state);
    if (error == NULL && (ta_control == NULL || ta_infer == NULL))
        return ta_error(TRITONSERVER_ERROR_INTERNAL, "the package triton_async uses another libtritonserver.so");
    return error;
}
