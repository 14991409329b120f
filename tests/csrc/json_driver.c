/* The JSON reader over good, random and broken documents, each allocated to its exact size, for the address and
 * undefined behaviour sanitizers. */
#include "check.h"
#include "json.h"

#include <string.h>

static const char *SEEDS[] = {
    "{\"id\":\"a\\u00e9\\ud83d\\ude00\",\"parameters\":{\"p\":1.5,\"q\":[1],\"r\":{}},\"inputs\":[{\"name\":\"X\",\"shape\":[2,2],"
    "\"datatype\":\"FP32\",\"data\":[[1,-2.5e-3],[1e400,123456789012345678901234567890]]}],\"outputs\":[{\"name\":\"Y\"}]}",
    "{\"d\\u0061ta\":[true,false,null,NaN,-Infinity,Inf],\"inp\\u0075ts\":[{\"dat\\u0061\":[\"a\\nb\",\"\\\"\",\"\xc3\xa9\"]}]}",
    "{\"x\":[[[[]]]],\"parameters\":{\"a\":[],\"b\":\"text\",\"c\":{\"d\":[1]}}, \"y\" : [ 1 , 2 ] }",
    "\xef\xbb\xbf {\"inputs\":[{\"data\":[0.1,2,3]},{\"data\":7},{\"data\":[18446744073709551615,-9223372036854775808]}]}",
    "[]", "7", "\"\\", "{\"a\"", "[1e", "-", "{\"inputs\":[",
};
enum { N_SEEDS = sizeof SEEDS / sizeof *SEEDS };

static void read_all(const char *text, int64_t size, enum ta_json_form form, int64_t most) {
    ta_json json = {.text = text, .size = size, .most = most, .max_left = 1 << 12};
    int status = ta_json_cut(&json, form);
    CHECK(status != 0 || json.at == size);
    CHECK(json.error_at >= 0 && json.error_at <= size);
    for (int64_t i = 0; status == 0 && i < json.n_spans; i++) {
        int64_t dims[2] = {2, 2};
        int64_t flat = ta_json_flat(&json, json.spans[i]);
        CHECK(json.spans[i].at >= 0 && json.spans[i].at < json.spans[i].end && json.spans[i].end <= size);
        for (int kind = TA_JSON_BOOLS; kind <= TA_JSON_STRINGS; kind++) {
            for (int width = kind == TA_JSON_FLOATS ? 4 : 1; width <= 8; width *= 2) {
                ta_json_elements to = {.kind = kind, .width = width, .rank = 2, .dims = dims, .count = 4};
                if (kind == TA_JSON_STRINGS) to.rank = 1, to.width = 0;
                if (kind == TA_JSON_STRINGS) {
                    int found = ta_json_fill(&json, json.spans[i], &to);
                    int64_t nbytes = to.nbytes;
                    if (found != 0 && found != TA_JSON_SHAPE) break;
                    CHECK(flat < 0 || to.done == flat);
                    to.out = malloc(nbytes > 0 ? (size_t)nbytes : 1);
                    CHECK(ta_json_fill(&json, json.spans[i], &to) == found && to.nbytes == nbytes);
                    free(to.out);
                    break;
                }
                to.out = malloc((size_t)(4 * width));
                ta_json_fill(&json, json.spans[i], &to);
                CHECK(to.done <= 4);
                free(to.out);
                if (kind == TA_JSON_BOOLS) break;
            }
        }
    }
    ta_json_free(&json);
}

static void documents_are_read_within_their_bounds(void) {
    static const char PIECES[] = "{}[]\",:\\u0ntfe.-+1 \n\xc3\xff";
    unsigned long long state = 88172645463325252ULL;
    for (int round = 0; round < 60000; round++) {
        const char *seed = SEEDS[next_random(&state) % N_SEEDS];
        size_t size = strlen(seed);
        char *text;
        if (round >= 2 * N_SEEDS) size -= next_random(&state) % 4 == 0 ? next_random(&state) % (size + 1) : 0;
        else size = strlen(seed = SEEDS[round / 2]);
        text = malloc(size ? size : 1);
        memcpy(text, seed, size);
        for (unsigned long long changes = round < 2 * N_SEEDS ? 0 : next_random(&state) % 4; size && changes; changes--)
            text[next_random(&state) % size] = PIECES[next_random(&state) % (sizeof PIECES - 1)];
        read_all(text, (int64_t)size, round % 2 ? TA_JSON_INFER : TA_JSON_GENERATE, (int64_t)(next_random(&state) % 3));
        free(text);
    }
}

static void depth_is_bounded(void) {
    int64_t size = 1 << 20;
    char *text = malloc((size_t)size);
    memset(text, '[', (size_t)size);
    ta_json json = {.text = text, .size = size, .most = 10, .max_left = 1 << 12};
    CHECK(ta_json_cut(&json, TA_JSON_INFER) == TA_JSON_DEPTH);
    ta_json_free(&json);
    free(text);
}

int main(void) {
    documents_are_read_within_their_bounds();
    depth_is_bounded();
    return 0;
}
