#include "later.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

typedef struct errand {
    struct errand *next;
    void (*release)(void *owner);
    void *owner;
} errand;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t done = PTHREAD_COND_INITIALIZER;
static errand *waiting; /* for the thread that is there while `working` */
static int working;

static void run_all(errand *errands) {
    while (errands != NULL) {
        errand *next = errands->next;
        errands->release(errands->owner);
        free(errands);
        errands = next;
    }
}

static void *work(void *unused) {
    errand *errands;
    (void)unused;
    do {
        pthread_mutex_lock(&lock);
        errands = waiting;
        waiting = NULL;
        working = errands != NULL;
        if (!working) {
            pthread_cond_broadcast(&done);
        }
        pthread_mutex_unlock(&lock);
        run_all(errands);
    } while (errands != NULL);
    return NULL;
}

static int start(void) {
    pthread_t thread;
    sigset_t all, before;
    /* Signals are the main thread's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, work, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) {
        pthread_detach(thread);
        working = 1;
    }
    return error;
}

void ta_later(void (*release)(void *owner), void *owner) {
    errand *made = malloc(sizeof(*made));
    if (made != NULL) {
        *made = (errand){NULL, release, owner};
        pthread_mutex_lock(&lock);
        if (working || start() == 0) {
            made->next = waiting;
            waiting = made;
            made = NULL;
            release = NULL;
        }
        pthread_mutex_unlock(&lock);
        free(made);
    }
    if (release != NULL) {
        release(owner);
    }
}

void ta_later_settle(void) {
    pthread_mutex_lock(&lock);
    while (working) {
        pthread_cond_wait(&done, &lock);
    }
    pthread_mutex_unlock(&lock);
}
