#define _GNU_SOURCE
#include "guard.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
    _Atomic uintptr_t begin; /* 0: free */
    _Atomic size_t nbytes;
    _Atomic int broken;
} guard;

static guard guards[TA_MAX_GUARDS];
static _Atomic int used; /* those from here on were never taken */
static int next_free;
static int installed;
static uintptr_t page_nbytes;
static struct sigaction before;

static void on_bus_error(int number, siginfo_t *info, void *context) {
    int saved = errno;
    uintptr_t address = (uintptr_t)info->si_addr;
    int count = atomic_load(&used);
    (void)number;
    (void)context;
    for (int i = 0; i < count; i++) {
        uintptr_t begin = atomic_load(&guards[i].begin);
        uintptr_t end = begin + atomic_load(&guards[i].nbytes);
        if (begin == 0 || address < begin || address >= end)
            continue;
        address &= ~(page_nbytes - 1);
        atomic_store(&guards[i].broken, 1);
        if (mmap((void *)address, end - address, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) != MAP_FAILED) {
            errno = saved;
            return;
        }
        break;
    }
    /* Not ours: it comes again at once, to whoever had it before. */
    sigaction(SIGBUS, &before, NULL);
    errno = saved;
}

static int install(void) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    if (installed)
        return 0;
    page_nbytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &before) < 0)
        return -1;
    installed = 1;
    return 0;
}

int ta_guard_add(void *begin, size_t nbytes) {
    if (install() < 0)
        return -1;
    for (int tried = 0; tried < TA_MAX_GUARDS; tried++) {
        int i = (next_free + tried) % TA_MAX_GUARDS;
        if (atomic_load(&guards[i].begin))
            continue;
        atomic_store(&guards[i].nbytes, nbytes);
        atomic_store(&guards[i].broken, 0);
        atomic_store(&guards[i].begin, (uintptr_t)begin);
        if (i >= atomic_load(&used))
            atomic_store(&used, i + 1);
        next_free = i + 1;
        return i;
    }
    errno = ENOSPC;
    return -1;
}

void ta_guard_remove(int i) {
    atomic_store(&guards[i].begin, 0);
    next_free = i;
}

int ta_guard_broken(int i) { return atomic_load(&guards[i].broken); }
