/* Families of metrics that programs and backends make, and the page of a server's metrics. Any thread. */
#define _GNU_SOURCE
#include "server.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct TRITONSERVER_Metrics {
    TRITONSERVER_Message *page; /* a text */
};

struct TRITONSERVER_MetricArgs {
    uint64_t n_buckets;
    double *buckets;
};

struct TRITONSERVER_Metric {
    TRITONSERVER_Metric *next;
    TRITONSERVER_MetricFamily *family;
    char *labels; /* `name="value",...` */
    double value; /* the sum, of a histogram */
    uint64_t n_buckets, count;
    double *buckets;
    uint64_t *counts; /* one more than `buckets` */
};

struct TRITONSERVER_MetricFamily {
    TRITONSERVER_MetricFamily *next;
    TRITONSERVER_MetricKind kind;
    char *name, *help;
    TRITONSERVER_Metric *metrics;
};

/* Of all families, and everything in them. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static TRITONSERVER_MetricFamily *families;

static bool is_name(const char *name) {
    for (const char *at = name; *at != 0; at++) {
        bool letter = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || *at == '_' || *at == ':';
        if (!letter && (at == name || *at < '0' || *at > '9'))
            return false;
    }
    return *name != 0;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricFamilyNew(
    TRITONSERVER_MetricFamily **family, const TRITONSERVER_MetricKind kind, const char *name,
    const char *description) {
    NEEDS(family);
    NEEDS(name);
    NEEDS(description);
    if ((unsigned)kind > TRITONSERVER_METRIC_KIND_HISTOGRAM)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "Unsupported kind passed to MetricFamily.");
    if (!is_name(name))
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "'%s' is no name of a metric", name);
    TRITONSERVER_MetricFamily *made = calloc(1, sizeof(*made));
    OUT_OF_MEMORY_IF(made == NULL);
    made->kind = kind;
    made->name = strdup(name);
    made->help = strdup(description);
    bool taken = false;
    pthread_mutex_lock(&lock);
    for (TRITONSERVER_MetricFamily *other = families; other != NULL; other = other->next)
        taken = taken || (strcmp(other->name, name) == 0 && other->kind != kind);
    bool good = made->name != NULL && made->help != NULL && !taken;
    if (good) {
        made->next = families;
        families = made;
    }
    pthread_mutex_unlock(&lock);
    if (good) {
        *family = made;
        return NULL;
    }
    free(made->name);
    free(made->help);
    free(made);
    return taken ? ta_error(TRITONSERVER_ERROR_INVALID_ARG, "a metric family '%s' of another kind is there", name)
                 : ta_no_memory();
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricFamilyDelete(TRITONSERVER_MetricFamily *family) {
    NEEDS(family);
    pthread_mutex_lock(&lock);
    TRITONSERVER_MetricFamily **place = &families;
    while (*place != NULL && *place != family)
        place = &(*place)->next;
    bool known = *place != NULL;
    bool used = known && family->metrics != NULL;
    if (known && !used)
        *place = family->next;
    pthread_mutex_unlock(&lock);
    if (!known)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "the metric family is none, or was deleted before");
    if (used)
        return ta_error(
            TRITONSERVER_ERROR_INTERNAL, "Must call MetricDelete on all dependent metrics before calling "
                                         "MetricFamilyDelete.");
    free(family->name);
    free(family->help);
    free(family);
    return NULL;
}

EXPORT TRITONSERVER_Error *
TRITONSERVER_GetMetricFamilyKind(TRITONSERVER_MetricFamily *family, TRITONSERVER_MetricKind *kind) {
    NEEDS(family);
    NEEDS(kind);
    *kind = family->kind;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricArgsNew(TRITONSERVER_MetricArgs **args) {
    NEEDS(args);
    *args = calloc(1, sizeof(**args));
    OUT_OF_MEMORY_IF(*args == NULL);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricArgsSetHistogram(
    TRITONSERVER_MetricArgs *args, const double *buckets, const uint64_t buckets_count) {
    NEEDS(args);
    NEEDS(buckets);
    for (uint64_t i = 0; i < buckets_count; i++)
        if (isnan(buckets[i]) || (i != 0 && buckets[i] <= buckets[i - 1]))
            return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "the buckets of a histogram must ascend");
    if (buckets_count == 0 || buckets_count > 10000)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "a histogram has 1 to 10000 buckets");
    double *copy = malloc(buckets_count * sizeof(double));
    OUT_OF_MEMORY_IF(copy == NULL);
    memcpy(copy, buckets, buckets_count * sizeof(double));
    free(args->buckets);
    args->buckets = copy;
    args->n_buckets = buckets_count;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricArgsDelete(TRITONSERVER_MetricArgs *args) {
    if (args != NULL)
        free(args->buckets);
    free(args);
    return NULL;
}

/* Labels are written once: `name="value"` with Prometheus's escapes. */
static char *label_text(const TRITONSERVER_Parameter **labels, uint64_t count) {
    char *text = NULL;
    size_t nbytes = 0;
    FILE *out = open_memstream(&text, &nbytes);
    if (out == NULL)
        return NULL;
    for (uint64_t i = 0; i < count; i++) {
        fprintf(out, "%s%s=\"", i == 0 ? "" : ",", labels[i]->name);
        for (const char *at = labels[i]->value.string; *at != 0; at++) {
            if (*at == '\n')
                fputs("\\n", out);
            else {
                if (*at == '\\' || *at == '"')
                    fputc('\\', out);
                fputc(*at, out);
            }
        }
        fputc('"', out);
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static void free_metric(TRITONSERVER_Metric *metric) {
    free(metric->labels);
    free(metric->buckets);
    free(metric->counts);
    free(metric);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricNewWithArgs(
    TRITONSERVER_Metric **metric, TRITONSERVER_MetricFamily *family, const TRITONSERVER_Parameter **labels,
    const uint64_t label_count, const TRITONSERVER_MetricArgs *args) {
    NEEDS(metric);
    NEEDS(family);
    if (label_count != 0)
        NEEDS(labels);
    for (uint64_t i = 0; i < label_count; i++)
        if (labels[i] == NULL || labels[i]->type != TRITONSERVER_PARAMETER_STRING)
            return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "Parameter labels must be of type string.");
        else if (!is_name(labels[i]->name))
            return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "'%s' is no name of a label", labels[i]->name);
    bool histogram = family->kind == TRITONSERVER_METRIC_KIND_HISTOGRAM;
    if (histogram && (args == NULL || args->buckets == NULL))
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "MetricArgs not set for histogram metric");
    TRITONSERVER_Metric *made = calloc(1, sizeof(*made));
    OUT_OF_MEMORY_IF(made == NULL);
    made->family = family;
    made->labels = label_text(labels, label_count);
    if (histogram) {
        made->n_buckets = args->n_buckets;
        made->buckets = malloc(args->n_buckets * sizeof(double));
        made->counts = calloc(args->n_buckets + 1, sizeof(uint64_t));
        if (made->buckets != NULL)
            memcpy(made->buckets, args->buckets, args->n_buckets * sizeof(double));
    }
    if (made->labels == NULL || (histogram && (made->buckets == NULL || made->counts == NULL))) {
        free_metric(made);
        return ta_no_memory();
    }
    pthread_mutex_lock(&lock);
    made->next = family->metrics;
    family->metrics = made;
    pthread_mutex_unlock(&lock);
    *metric = made;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricNew(
    TRITONSERVER_Metric **metric, TRITONSERVER_MetricFamily *family, const TRITONSERVER_Parameter **labels,
    const uint64_t label_count) {
    return TRITONSERVER_MetricNewWithArgs(metric, family, labels, label_count, NULL);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricDelete(TRITONSERVER_Metric *metric) {
    NEEDS(metric);
    pthread_mutex_lock(&lock);
    TRITONSERVER_Metric **place = NULL;
    for (TRITONSERVER_MetricFamily *family = families; family != NULL && place == NULL; family = family->next)
        for (TRITONSERVER_Metric **at = &family->metrics; *at != NULL && place == NULL; at = &(*at)->next)
            if (*at == metric)
                place = at;
    if (place != NULL)
        *place = metric->next;
    pthread_mutex_unlock(&lock);
    if (place == NULL)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "the metric is none, or was deleted before");
    free_metric(metric);
    return NULL;
}

static TRITONSERVER_Error *wrong_kind(const char *call) {
    return ta_error(TRITONSERVER_ERROR_UNSUPPORTED, "metrics of this kind do not support %s", call);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricValue(TRITONSERVER_Metric *metric, double *value) {
    NEEDS(metric);
    NEEDS(value);
    if (metric->family->kind == TRITONSERVER_METRIC_KIND_HISTOGRAM)
        return wrong_kind("Value");
    pthread_mutex_lock(&lock);
    *value = metric->value;
    pthread_mutex_unlock(&lock);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricIncrement(TRITONSERVER_Metric *metric, double value) {
    NEEDS(metric);
    if (metric->family->kind == TRITONSERVER_METRIC_KIND_HISTOGRAM)
        return wrong_kind("Increment");
    if (metric->family->kind == TRITONSERVER_METRIC_KIND_COUNTER && !(value >= 0))
        return ta_error(
            TRITONSERVER_ERROR_INVALID_ARG, "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by "
                                            "non-negative values.");
    pthread_mutex_lock(&lock);
    metric->value += value;
    pthread_mutex_unlock(&lock);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricSet(TRITONSERVER_Metric *metric, double value) {
    NEEDS(metric);
    if (metric->family->kind != TRITONSERVER_METRIC_KIND_GAUGE)
        return wrong_kind("Set");
    pthread_mutex_lock(&lock);
    metric->value = value;
    pthread_mutex_unlock(&lock);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricObserve(TRITONSERVER_Metric *metric, double value) {
    NEEDS(metric);
    if (metric->family->kind != TRITONSERVER_METRIC_KIND_HISTOGRAM)
        return wrong_kind("Observe");
    uint64_t place = 0;
    while (place < metric->n_buckets && !(value <= metric->buckets[place]))
        place++;
    pthread_mutex_lock(&lock);
    metric->counts[place]++;
    metric->count++;
    metric->value += value;
    pthread_mutex_unlock(&lock);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_GetMetricKind(TRITONSERVER_Metric *metric, TRITONSERVER_MetricKind *kind) {
    NEEDS(metric);
    NEEDS(kind);
    *kind = metric->family->kind;
    return NULL;
}

/* -- The page */

static void write_metric(FILE *out, const TRITONSERVER_MetricFamily *family, const TRITONSERVER_Metric *metric) {
    const char *comma = *metric->labels == 0 ? "" : ",";
    if (family->kind != TRITONSERVER_METRIC_KIND_HISTOGRAM) {
        if (*metric->labels == 0)
            fprintf(out, "%s %.17g\n", family->name, metric->value);
        else
            fprintf(out, "%s{%s} %.17g\n", family->name, metric->labels, metric->value);
        return;
    }
    uint64_t sum = 0;
    for (uint64_t i = 0; i < metric->n_buckets; i++) {
        sum += metric->counts[i];
        fprintf(
            out, "%s_bucket{%s%sle=\"%.9g\"} %llu\n", family->name, metric->labels, comma, metric->buckets[i],
            (unsigned long long)sum);
    }
    fprintf(
        out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", family->name, metric->labels, comma,
        (unsigned long long)metric->count);
    fprintf(out, "%s_sum{%s} %.17g\n", family->name, metric->labels, metric->value);
    fprintf(out, "%s_count{%s} %llu\n", family->name, metric->labels, (unsigned long long)metric->count);
}

/* The first family of this name with metrics, from one to before another. */
static TRITONSERVER_MetricFamily *named(TRITONSERVER_MetricFamily *from, const TRITONSERVER_MetricFamily *end,
                                        const char *name) {
    for (; from != end; from = from->next)
        if (from->metrics != NULL && strcmp(from->name, name) == 0)
            return from;
    return NULL;
}

EXPORT char *ta_metrics_text(size_t *nbytes) {
    static const char *const KINDS[] = {"counter", "gauge", "histogram"};
    char *text = NULL;
    FILE *out = open_memstream(&text, nbytes);
    if (out == NULL)
        return NULL;
    pthread_mutex_lock(&lock);
    for (TRITONSERVER_MetricFamily *family = families; family != NULL; family = family->next) {
        if (family->metrics == NULL || named(families, family, family->name))
            continue;
        fprintf(out, "# HELP %s ", family->name);
        for (const char *at = family->help; *at != 0; at++)
            *at == '\n' ? fputs("\\n", out) : fputc(*at, out);
        fprintf(out, "\n# TYPE %s %s\n", family->name, KINDS[family->kind]);
        /* Several libraries may each have made one of this name, and a page has it once. */
        for (TRITONSERVER_MetricFamily *same = family; same != NULL; same = named(same->next, NULL, family->name))
            for (TRITONSERVER_Metric *metric = same->metrics; metric != NULL; metric = metric->next)
                write_metric(out, same, metric);
    }
    pthread_mutex_unlock(&lock);
    if (fclose(out) == 0)
        return text;
    free(text);
    return NULL;
}

EXPORT void ta_metrics_free(char *text) {
    free(text);
}

/* The server's page has the families in it. */
EXPORT TRITONSERVER_Error *TRITONSERVER_ServerMetrics(TRITONSERVER_Server *server, TRITONSERVER_Metrics **metrics) {
    NEEDS(metrics);
    TRY(ta_known(server));
    TRITONSERVER_Message *page = NULL;
    bool foreign;
    TRY(ta_enter(server, &foreign));
    TRITONSERVER_Error *error = server->control->call(server->number, "metrics", NULL, 0, &page);
    ta_leave(foreign);
    TRY(error);
    *metrics = calloc(1, sizeof(**metrics));
    if (*metrics == NULL) {
        free(page);
        return ta_no_memory();
    }
    (*metrics)->page = page;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricsDelete(TRITONSERVER_Metrics *metrics) {
    if (metrics != NULL)
        free(metrics->page);
    free(metrics);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MetricsFormatted(
    TRITONSERVER_Metrics *metrics, TRITONSERVER_MetricFormat format, const char **base, size_t *byte_size) {
    NEEDS(metrics);
    NEEDS(base);
    NEEDS(byte_size);
    if (format != TRITONSERVER_METRIC_PROMETHEUS)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "unknown metrics format '%d'", (int)format);
    *base = metrics->page->json;
    *byte_size = metrics->page->nbytes;
    return NULL;
}
