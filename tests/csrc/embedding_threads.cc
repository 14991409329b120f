// A C++ program whose threads ask one server at once, and measure what an inference costs.
#include "embedding.h"

#include <ctime>
#include <thread>
#include <vector>

static double cpu_seconds() {
    timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Keeps some requests on their way until enough were answered.
static void ask(TRITONSERVER_Server *server, TRITONSERVER_ResponseAllocator *allocator, int width, int rounds) {
    std::vector<Waiter> waiters(static_cast<size_t>(width));
    std::vector<TRITONSERVER_InferenceRequest *> requests;
    const float values[16] = {1, 2, 3};
    size_t nbytes;
    for (Waiter &waiter : waiters) {
        waiter_init(&waiter);
        requests.push_back(request_for(server, "same", values, 16, &waiter, allocator));
    }
    for (int i = 0; i < rounds; i++) {
        for (TRITONSERVER_InferenceRequest *request : requests)
            GOOD(TRITONSERVER_ServerInferAsync(server, request, nullptr));
        for (Waiter &waiter : waiters) {
            waiter_wait(&waiter);
            CHECK(memcmp(output_of(waiter.responses[0], &nbytes), values, sizeof(values)) == 0);
            waiter_clear(&waiter);
        }
    }
    for (TRITONSERVER_InferenceRequest *request : requests)
        GOOD(TRITONSERVER_InferenceRequestDelete(request));
}

int main(int argc, char **argv) {
    CHECK(argc == 5);
    const int n_threads = atoi(argv[2]), width = atoi(argv[3]), rounds = atoi(argv[4]);
    TRITONSERVER_ResponseAllocator *allocator;
    TRITONSERVER_Server *server;
    GOOD(TRITONSERVER_ResponseAllocatorNew(&allocator, on_alloc, on_free, nullptr));
    TRITONSERVER_ServerOptions *options = options_for(argv[1]);
    GOOD(TRITONSERVER_ServerOptionsSetStartupModel(options, "same"));
    GOOD(TRITONSERVER_ServerNew(&server, options));
    GOOD(TRITONSERVER_ServerOptionsDelete(options));
    ask(server, allocator, 4, 50);
    std::vector<std::thread> threads;
    timespec begun, ended;
    const double before = cpu_seconds();
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (int i = 0; i < n_threads; i++)
        threads.emplace_back(ask, server, allocator, width, rounds);
    for (std::thread &thread : threads)
        thread.join();
    clock_gettime(CLOCK_MONOTONIC, &ended);
    const double count = static_cast<double>(n_threads) * width * rounds;
    const double seconds = static_cast<double>(ended.tv_sec - begun.tv_sec) +
                           static_cast<double>(ended.tv_nsec - begun.tv_nsec) * 1e-9;
    printf(
        "%.0f inferences, %.2f us of wall and %.2f us of CPU for each\n", count, seconds / count * 1e6,
        (cpu_seconds() - before) / count * 1e6);
    GOOD(TRITONSERVER_ServerDelete(server));
    GOOD(TRITONSERVER_ResponseAllocatorDelete(allocator));
    return 0;
}
