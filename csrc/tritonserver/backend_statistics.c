/* Reports of single responses. The server measures the same times itself, when it sends them: reports are checked. */
#include "backend_side.h"

#include <stdlib.h>

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceResponseStatisticsNew(
    TRITONBACKEND_ModelInstanceResponseStatistics **response_statistics) {
    NEEDS(response_statistics);
    *response_statistics = calloc(1, sizeof(**response_statistics));
    return *response_statistics == NULL ? ta_error(TRITONSERVER_ERROR_INTERNAL, "out of memory") : NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceResponseStatisticsDelete(
    TRITONBACKEND_ModelInstanceResponseStatistics *response_statistics) {
    free(response_statistics);
    return NULL;
}

#define SETTER(Name, type, name, field)                                                       \
    EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceResponseStatisticsSet##Name(         \
        TRITONBACKEND_ModelInstanceResponseStatistics *response_statistics, type name) {      \
        NEEDS(response_statistics);                                                           \
        response_statistics->field = name;                                                    \
        return NULL;                                                                          \
    }

SETTER(ModelInstance, TRITONBACKEND_ModelInstance *, model_instance, instance)
SETTER(ResponseFactory, TRITONBACKEND_ResponseFactory *, response_factory, factory)
SETTER(ResponseStart, uint64_t, response_start, response_start)
SETTER(ComputeOutputStart, uint64_t, compute_output_start, output_start)
SETTER(ResponseEnd, uint64_t, response_end, response_end)
SETTER(Error, TRITONSERVER_Error *, error, error)

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportResponseStatistics(
    TRITONBACKEND_ModelInstanceResponseStatistics *response_statistics) {
    NEEDS(response_statistics);
    NEEDS_A(INSTANCE, response_statistics->instance);
    NEEDS_A(FACTORY, response_statistics->factory);
    if (response_statistics->response_end < response_statistics->response_start)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "the response ends before it begins");
    return NULL;
}
