/* Streams, events and graphs of the fake CUDA driver: made, waited for, destroyed. */
#include "fake_cuda_internal.h"

#include <stdlib.h>

static int streams_made;

EXPORT int fake_stream_create(int priority, fake_stream **made) {
    int result = fake_begin();
    if (result != 0) {
        return result;
    }
    fake_stream *stream = calloc(1, sizeof(*stream));
    if (stream == NULL) {
        return fake_finish(FAKE_OUT_OF_MEMORY);
    }
    stream->priority = priority;
    stream->number = streams_made++;
    pthread_cond_init(&stream->filled, NULL);
    if (pthread_create(&stream->thread, NULL, fake_stream_main, stream) != 0) {
        pthread_cond_destroy(&stream->filled);
        free(stream);
        return fake_finish(FAKE_OUT_OF_MEMORY);
    }
    fake_live.streams++;
    *made = stream;
    return fake_finish(0);
}

static void free_ops(op *first) {
    while (first != NULL) {
        op *next = first->next;
        free(first);
        first = next;
    }
}

EXPORT int fake_stream_destroy(fake_stream *stream) {
    pthread_mutex_lock(&fake_lock);
    stream->ending = 1;
    pthread_cond_signal(&stream->filled);
    pthread_mutex_unlock(&fake_lock);
    pthread_join(stream->thread, NULL);
    if (stream->capture != NULL) {
        free_ops(stream->capture->first);
        free(stream->capture);
    }
    pthread_cond_destroy(&stream->filled);
    free(stream);
    pthread_mutex_lock(&fake_lock);
    fake_live.streams--;
    return fake_finish(0);
}

EXPORT int fake_stream_priority(const fake_stream *stream) { return stream->priority; }

EXPORT int fake_stream_number(const fake_stream *stream) { return stream->number; }

EXPORT int cuStreamSynchronize(fake_stream *stream) {
    if (stream == NULL) { /* the default stream has the copies of cuMemcpy, which are done here when it returns */
        int broken = fake_begin();
        return broken != 0 ? broken : fake_finish(fake_broken);
    }
    int result = fake_begin_on(stream);
    if (result != 0) {
        return result;
    }
    result = fake_refuse_capture(stream, FAKE_CAPTURE_UNSUPPORTED);
    while (result == 0 && (stream->first != NULL || stream->busy)) {
        pthread_cond_wait(&fake_moved, &fake_lock);
    }
    return fake_finish(result != 0 ? result : fake_broken);
}

EXPORT int fake_event_create(int timing, int spin, fake_event **made) {
    int result = fake_begin();
    if (result != 0) {
        return result;
    }
    fake_event *event = calloc(1, sizeof(*event));
    if (event == NULL) {
        return fake_finish(FAKE_OUT_OF_MEMORY);
    }
    event->timing = timing;
    event->spin = spin;
    fake_live.events++;
    fake_live.spinning += spin;
    *made = event;
    return fake_finish(0);
}

EXPORT int fake_event_destroy(fake_event *event) {
    pthread_mutex_lock(&fake_lock);
    while (event->in_use > 0) {
        pthread_cond_wait(&fake_moved, &fake_lock);
    }
    fake_live.events--;
    fake_live.spinning -= event->spin;
    free(event);
    return fake_finish(0);
}

EXPORT int cuStreamWaitEvent(fake_stream *stream, fake_event *event, unsigned flags) {
    int result = fake_begin_on(stream);
    if (result != 0) {
        return result;
    }
    if (event == NULL || flags != 0) {
        return fake_finish(FAKE_INVALID_VALUE);
    }
    result = fake_refuse_capture(stream, FAKE_CAPTURE_ISOLATION);
    if (result != 0 || event->reached >= event->recorded) {
        return fake_finish(result);
    }
    event->in_use++;
    return fake_finish(fake_put(stream, (op){.kind = OP_WAIT, .event = event, .version = event->recorded}));
}

EXPORT int cuEventRecord(fake_event *event, fake_stream *stream) {
    int result = fake_begin_on(stream);
    if (result != 0) {
        return result;
    }
    if (event == NULL) {
        return fake_finish(FAKE_INVALID_HANDLE);
    }
    if (stream->capturing) {
        event->captured = 1; /* not visible outside of the graph */
        return fake_finish(0);
    }
    event->captured = 0;
    event->in_use++;
    return fake_finish(fake_put(stream, (op){.kind = OP_RECORD, .event = event, .version = ++event->recorded}));
}

EXPORT int cuEventSynchronize(fake_event *event) {
    int result = fake_begin();
    if (result != 0) {
        return result;
    }
    uint64_t version = event->recorded;
    if (event->captured) {
        return fake_finish(FAKE_CAPTURED_EVENT);
    }
    event->in_use++;
    while (event->reached < version) {
        pthread_cond_wait(&fake_moved, &fake_lock);
    }
    event->in_use--;
    pthread_cond_broadcast(&fake_moved);
    return fake_finish(fake_broken);
}

EXPORT int cuEventQuery(fake_event *event) {
    int result = fake_begin();
    if (result != 0) {
        return result;
    }
    if (event->captured) {
        return fake_finish(FAKE_CAPTURED_EVENT);
    }
    return fake_finish(event->reached < event->recorded ? FAKE_NOT_READY : 0);
}

EXPORT int cuEventElapsedTime(float *ms, fake_event *start, fake_event *end) {
    int result = fake_begin();
    if (result != 0) {
        return result;
    }
    if (!start->timing || !end->timing || start->reached == 0 || end->reached == 0) {
        return fake_finish(FAKE_INVALID_HANDLE);
    }
    if (start->reached < start->recorded || end->reached < end->recorded) {
        return fake_finish(FAKE_NOT_READY);
    }
    *ms = (float)((double)(end->time_ns - start->time_ns) / 1e6);
    return fake_finish(0);
}

EXPORT int fake_begin_capture(fake_stream *stream) {
    int result = fake_begin_on(stream);
    if (result != 0) {
        return result;
    }
    result = fake_refuse_capture(stream, FAKE_INVALID_VALUE);
    if (result == 0) {
        stream->capture = calloc(1, sizeof(*stream->capture));
        stream->capturing = stream->capture != NULL;
        result = stream->capturing ? 0 : FAKE_OUT_OF_MEMORY;
    }
    return fake_finish(result);
}

/* Ends the capture also when it fails. */
EXPORT int fake_end_capture(fake_stream *stream, fake_graph **made) {
    pthread_mutex_lock(&fake_lock);
    int result = fake_enter();
    if (!stream->capturing) {
        return fake_finish(FAKE_INVALID_VALUE);
    }
    if (result == 0 && stream->invalidated) {
        result = FAKE_CAPTURE_INVALIDATED;
    }
    if (result == 0) {
        *made = stream->capture;
        fake_live.graphs++;
    } else {
        free_ops(stream->capture->first);
        free(stream->capture);
    }
    stream->capture = NULL;
    stream->capturing = stream->invalidated = 0;
    return fake_finish(result);
}

EXPORT int fake_destroy_graph(fake_graph *graph) {
    pthread_mutex_lock(&fake_lock);
    while (graph->in_use > 0 && fake_broken) {
        pthread_cond_wait(&fake_moved, &fake_lock); /* until the streams have thrown it away */
    }
    int result = graph->in_use > 0 ? FAKE_INVALID_VALUE : 0; /* a mistake that a test should see */
    if (result == 0) {
        free_ops(graph->first);
        free(graph);
        fake_live.graphs--;
    }
    return fake_finish(result);
}

EXPORT int cuGraphLaunch(fake_graph *graph, fake_stream *stream) {
    int result = fake_begin_on(stream);
    if (result != 0) {
        return result;
    }
    graph->in_use++;
    return fake_finish(fake_put(stream, (op){.kind = OP_GRAPH, .graph = graph}));
}
