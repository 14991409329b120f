/* What the drivers share: a check that also counts in a release build. */
#ifndef TRITON_ASYNC_TESTS_CHECK_H
#define TRITON_ASYNC_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                               \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* xorshift: the same numbers on every machine. */
static inline unsigned long long next_random(unsigned long long *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
