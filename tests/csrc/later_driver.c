/* Errands of many threads: each is run once, and all are behind whoever has waited for them. */
#include "check.h"
#include "later.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

#define THREADS 4
#define EACH 2000

static atomic_int runs[THREADS * EACH];

static void run(void *owner) {
    intptr_t index = (intptr_t)owner;
    if (index % 500 == 0) {
        usleep(1000); /* so that those who wait come to wait */
    }
    atomic_fetch_add(&runs[index], 1);
}

static void *hand_out(void *argument) {
    intptr_t thread = (intptr_t)argument;
    for (int i = 0; i < EACH; i++) {
        ta_later(run, (void *)(thread * EACH + i));
    }
    ta_later_settle();
    for (int i = 0; i < EACH; i++) {
        CHECK(atomic_load(&runs[thread * EACH + i]) == 1);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    ta_later_settle(); /* nothing to wait for */
    for (intptr_t i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, hand_out, (void *)i) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < THREADS * EACH; i++) {
        CHECK(atomic_load(&runs[i]) == 1);
    }
    return 0;
}
