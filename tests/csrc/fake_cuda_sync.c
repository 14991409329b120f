/* A CUDA driver without streams, for tests of blocking copies on a machine without a GPU.
 *
 * Device memory is an anonymous file mapped twice: where the "device" says it is nobody may read or write, so that host
 * code which touches it dies; copies go through the other mapping. As with the real driver
 *   - a copy needs a current context on the calling thread;
 *   - a copy to a device is only under way when cuMemcpy returns: it lands with the next copy or synchronisation;
 *   - an address that is in no allocation is an error.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ALLOCATIONS 4096

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801 };

typedef struct allocation {
    char *device; /* NULL: free entry */
    char *alias;
    size_t nbytes;
    size_t mapped;
} allocation;

typedef struct pending {
    struct pending *next;
    uint64_t to;
    size_t nbytes;
    char bytes[];
} pending;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static allocation allocations[ALLOCATIONS];
static pending *first, **last = &first;
static int64_t copies, synchronisations;
static int copy_result; /* of every copy from now on; 0: they work */
static int synchronise_result;
static _Thread_local int has_context;

static allocation *find(uint64_t address) {
    for (int i = 0; i < ALLOCATIONS; i++) {
        allocation *a = &allocations[i];
        if (a->device != NULL && address >= (uint64_t)a->device && address < (uint64_t)a->device + a->mapped) {
            return a;
        }
    }
    return NULL;
}

/* Host address of `nbytes` bytes at `address`; NULL when they leave the allocation. */
static char *resolve(uint64_t address, size_t nbytes) {
    allocation *a = find(address);
    if (a == NULL) {
        return (char *)address;
    }
    size_t offset = address - (uint64_t)a->device;
    return offset > a->nbytes || nbytes > a->nbytes - offset ? NULL : a->alias + offset;
}

static int land(void) {
    int result = 0;
    while (first != NULL) {
        pending *copy = first;
        char *to = find(copy->to) == NULL ? NULL : resolve(copy->to, copy->nbytes);
        if (to == NULL) {
            result = ILLEGAL_ADDRESS; /* freed meanwhile */
        } else {
            memcpy(to, copy->bytes, copy->nbytes);
        }
        first = copy->next;
        free(copy);
    }
    last = &first;
    return result;
}

int cuInit(unsigned flags) {
    return flags ? INVALID_VALUE : 0;
}

int cuMemcpy(uint64_t to, uint64_t from, size_t nbytes) {
    if (!has_context) {
        return INVALID_CONTEXT;
    }
    pthread_mutex_lock(&lock);
    int result = copy_result != 0 ? copy_result : land();
    copies++;
    char *source = resolve(from, nbytes);
    char *target = resolve(to, nbytes);
    if (result == 0 && (source == NULL || target == NULL)) {
        result = INVALID_VALUE;
    }
    if (result == 0 && find(to) == NULL) {
        memcpy(target, source, nbytes);
    } else if (result == 0) {
        pending *copy = malloc(sizeof(pending) + nbytes);
        copy->next = NULL;
        copy->to = to;
        copy->nbytes = nbytes;
        memcpy(copy->bytes, source, nbytes);
        *last = copy;
        last = &copy->next;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int cuStreamSynchronize(void *stream) {
    if (!has_context || stream != NULL) {
        return INVALID_CONTEXT;
    }
    pthread_mutex_lock(&lock);
    synchronisations++;
    int result = synchronise_result != 0 ? synchronise_result : land();
    pthread_mutex_unlock(&lock);
    return result;
}

int cuGetErrorName(int result, const char **name) {
    *name = result == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_OF_THE_FAKE";
    return 0;
}

int cuGetErrorString(int result, const char **text) {
    (void)result;
    *text = "as the test asked for";
    return 0;
}

/* Not for blocking copies. */
int cuMemcpyAsync(void) { return NOT_SUPPORTED; }
int cuMemsetD8Async(void) { return NOT_SUPPORTED; }
int cuStreamWaitEvent(void) { return NOT_SUPPORTED; }
int cuEventRecord(void) { return NOT_SUPPORTED; }
int cuEventSynchronize(void) { return NOT_SUPPORTED; }
int cuEventQuery(void) { return NOT_SUPPORTED; }
int cuEventElapsedTime(void) { return NOT_SUPPORTED; }
int cuLaunchHostFunc(void) { return NOT_SUPPORTED; }
int cuGraphLaunch(void) { return NOT_SUPPORTED; }
int cuLaunchKernel(void) { return NOT_SUPPORTED; }

/* -- what stands for the rest of CUDA, and what tests see and set ------------------------------- */

void fake_set_context(int current) {
    has_context = current;
}

/* Device address of new memory; 0 when there is none. */
uint64_t fake_allocate(size_t nbytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t mapped = (nbytes / page + 1) * page;
    int file = memfd_create("device", 0);
    if (file < 0) {
        return 0;
    }
    char *device = MAP_FAILED, *alias = MAP_FAILED;
    if (ftruncate(file, (off_t)mapped) == 0) {
        device = mmap(NULL, mapped, PROT_NONE, MAP_SHARED, file, 0);
        alias = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    }
    close(file);
    pthread_mutex_lock(&lock);
    for (int i = 0; device != MAP_FAILED && alias != MAP_FAILED && i < ALLOCATIONS; i++) {
        if (allocations[i].device == NULL) {
            allocations[i] = (allocation){device, alias, nbytes, mapped};
            pthread_mutex_unlock(&lock);
            return (uint64_t)device;
        }
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

int fake_free(uint64_t address) {
    pthread_mutex_lock(&lock);
    allocation *a = find(address);
    if (a != NULL) {
        munmap(a->device, a->mapped);
        munmap(a->alias, a->mapped);
        a->device = NULL;
    }
    pthread_mutex_unlock(&lock);
    return a == NULL ? INVALID_VALUE : 0;
}

/* The bytes of an allocation as its owner, another process, reads and writes them. */
char *fake_alias(uint64_t address) {
    pthread_mutex_lock(&lock);
    char *alias = find(address) == NULL ? NULL : resolve(address, 0);
    pthread_mutex_unlock(&lock);
    return alias;
}

void fake_set_results(int of_copies, int of_synchronisations) {
    pthread_mutex_lock(&lock);
    copy_result = of_copies;
    synchronise_result = of_synchronisations;
    pthread_mutex_unlock(&lock);
}

int64_t fake_copies(void) {
    return copies;
}

int64_t fake_synchronisations(void) {
    return synchronisations;
}
