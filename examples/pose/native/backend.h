// What the two backends of the pose example share: errors as exceptions, requests and responses as values.
//
// A backend is written against the C API alone (triton/core/tritonbackend.h), so that it runs in this server and in Triton.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "triton/core/tritonbackend.h"

namespace pose {

// Takes over an error of the API and throws it.
inline void check(TRITONSERVER_Error *error) {
    if (error == nullptr)
        return;
    std::string text = TRITONSERVER_ErrorMessage(error);
    TRITONSERVER_ErrorDelete(error);
    throw std::runtime_error(text);
}

// One input of a request, in one piece. `copy` has it where the server gives it in several.
struct Input {
    std::vector<int64_t> shape;
    const char *data = nullptr;
    uint64_t nbytes = 0;
    std::string copy;
};

inline Input input_of(TRITONBACKEND_Request *request, const char *name) {
    TRITONBACKEND_Input *input;
    const int64_t *shape;
    uint32_t rank, count;
    Input found;
    check(TRITONBACKEND_RequestInput(request, name, &input));
    check(TRITONBACKEND_InputProperties(input, nullptr, nullptr, &shape, &rank, &found.nbytes, &count));
    found.shape.assign(shape, shape + rank);
    for (uint32_t i = 0; i < count; i++) {
        const void *part;
        uint64_t nbytes;
        TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
        int64_t id = 0;
        check(TRITONBACKEND_InputBuffer(input, i, &part, &nbytes, &type, &id));
        if (type == TRITONSERVER_MEMORY_GPU)
            throw std::runtime_error(std::string(name) + " lies on a GPU");
        if (count == 1)
            found.data = static_cast<const char *>(part);
        else
            found.copy.append(static_cast<const char *>(part), nbytes);
    }
    if (count != 1)
        found.data = found.copy.data();
    return found;
}

// Memory of one output of a response, to be filled.
inline float *floats_of(TRITONBACKEND_Response *response, const char *name, const std::vector<int64_t> &shape) {
    TRITONBACKEND_Output *output;
    void *buffer;
    TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
    int64_t id = 0;
    uint64_t count = 1;
    for (int64_t dim : shape)
        count *= static_cast<uint64_t>(dim);
    check(TRITONBACKEND_ResponseOutput(
        response, &output, name, TRITONSERVER_TYPE_FP32, shape.data(), static_cast<uint32_t>(shape.size())));
    check(TRITONBACKEND_OutputBuffer(output, &buffer, count * sizeof(float), &type, &id));
    if (type == TRITONSERVER_MEMORY_GPU)
        throw std::runtime_error(std::string(name) + " is wanted on a GPU");
    return static_cast<float *>(buffer);
}

// Answers each request with what `work(request, response)` makes of it, or with the error that it throws.
template <typename Work>
TRITONSERVER_Error *execute(TRITONBACKEND_Request **requests, uint32_t count, Work work) {
    for (uint32_t i = 0; i < count; i++) {
        TRITONBACKEND_Response *response = nullptr;
        TRITONSERVER_Error *failure = TRITONBACKEND_ResponseNew(&response, requests[i]);
        if (failure == nullptr) {
            try {
                work(requests[i], response);
            } catch (const std::exception &problem) {
                failure = TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, problem.what());
            }
            TRITONSERVER_Error *unsent =
                TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, failure);
            TRITONSERVER_ErrorDelete(unsent);
        }
        TRITONSERVER_ErrorDelete(failure);
        TRITONSERVER_ErrorDelete(TRITONBACKEND_RequestRelease(requests[i], TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    return nullptr;
}

}  // namespace pose
