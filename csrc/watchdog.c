#include "watchdog.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_SIGNALS 4
#define TICK_MS 20
/* A signal so soon behind the first is the same wish told twice: make, shells and containers pass on what the whole
 * group got already. */
#define SAME_NS INT64_C(300000000)

static struct {
    int watching;
    int fd; /* eventfd: a signal came, or the watch ends */
    pthread_t thread;
    int64_t limit_ns;
    int64_t again_ns;
    int count;
    int signals[MAX_SIGNALS];
    struct sigaction before[MAX_SIGNALS];
    _Atomic int ended;
    _Atomic int64_t first_ns; /* 0: not yet */
    _Atomic int64_t second_ns;
} watch = {.fd = -1};

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void wake(void) {
    uint64_t one = 1;
    ssize_t written = write(watch.fd, &one, sizeof(one));
    (void)written; /* full: it is awake */
}

static void on_signal(int number, siginfo_t *info, void *context) {
    int saved = errno;
    int64_t now = now_ns();
    int64_t first = 0;
    if (!atomic_compare_exchange_strong(&watch.first_ns, &first, now)) {
        int64_t none = 0;
        if (now - first < SAME_NS)
            return;
        atomic_compare_exchange_strong(&watch.second_ns, &none, now);
    }
    wake();
    for (int i = 0; i < watch.count; i++) {
        struct sigaction *before = &watch.before[i];
        if (watch.signals[i] != number)
            continue;
        if (before->sa_flags & SA_SIGINFO)
            before->sa_sigaction(number, info, context);
        else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN)
            before->sa_handler(number);
    }
    errno = saved;
}

static void leave(const char *why) {
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&out, 1, 0) == 1 && (out.revents & POLLOUT)) { /* else nobody reads, and writing would wait */
        ssize_t written = write(STDERR_FILENO, why, strlen(why));
        (void)written;
    }
    _exit(1);
}

static void *run(void *unused) {
    (void)unused;
    while (!atomic_load(&watch.ended)) {
        int64_t first = atomic_load(&watch.first_ns);
        int64_t second = atomic_load(&watch.second_ns);
        struct pollfd in = {.fd = watch.fd, .events = POLLIN};
        uint64_t count;
        if (first && now_ns() - first >= watch.limit_ns)
            leave("error: failed to stop server: Internal - Exit timeout expired and the event loop does not answer. "
                  "Exiting immediately.\n");
        if (second && now_ns() - second >= watch.again_ns)
            leave("error: a second signal to stop came and the event loop does not answer. Exiting immediately.\n");
        if (poll(&in, 1, first ? TICK_MS : -1) == 1) {
            ssize_t got = read(watch.fd, &count, sizeof(count));
            (void)got;
        }
    }
    return NULL;
}

int ta_watchdog_start(const int *signals, int count, int64_t limit_ns, int64_t again_ns) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    sigset_t all, previous;
    int result;
    if (watch.watching) {
        errno = EBUSY;
        return -1;
    }
    if (count > MAX_SIGNALS) {
        errno = EINVAL;
        return -1;
    }
    watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (watch.fd < 0)
        return -1;
    watch.limit_ns = limit_ns;
    watch.again_ns = again_ns;
    watch.count = count;
    atomic_store(&watch.ended, 0);
    atomic_store(&watch.first_ns, 0);
    atomic_store(&watch.second_ns, 0);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous); /* the thread handles none */
    result = pthread_create(&watch.thread, NULL, run, NULL);
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (result) {
        close(watch.fd);
        watch.fd = -1;
        errno = result;
        return -1;
    }
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < count; i++) {
        watch.signals[i] = signals[i];
        /* What is there now must be known before the first signal can come here. */
        sigaction(signals[i], NULL, &watch.before[i]);
        sigaction(signals[i], &action, NULL);
    }
    watch.watching = 1;
    return 0;
}

void ta_watchdog_stop(void) {
    struct sigaction now;
    if (!watch.watching)
        return;
    for (int i = 0; i < watch.count; i++)
        if (sigaction(watch.signals[i], NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) &&
            now.sa_sigaction == on_signal)
            sigaction(watch.signals[i], &watch.before[i], NULL);
    atomic_store(&watch.ended, 1);
    wake();
    pthread_join(watch.thread, NULL);
    close(watch.fd);
    watch.fd = -1;
    watch.watching = 0;
}
