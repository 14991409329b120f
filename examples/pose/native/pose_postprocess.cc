// The backend `pose_postprocess`: of heat maps [n,17,height,width] and the sizes of the pictures [n,2] it makes the points
// of the joints in the pictures, and the maps' heights there, [n,17,3].
#include <algorithm>
#include <cmath>

#include "backend.h"

namespace {

float sign(float value) {
    return static_cast<float>((value > 0) - (value < 0));
}

// One map; the peak lies a quarter of a cell towards the higher of the two neighbours.
void locate(const float *map, int64_t height, int64_t width, const float *size, float *point) {
    int64_t best = std::max_element(map, map + height * width) - map;
    int64_t row = best / width, column = best % width;
    float x = static_cast<float>(column), y = static_cast<float>(row);
    if (column > 0 && column < width - 1)
        x += 0.25F * sign(map[best + 1] - map[best - 1]);
    if (row > 0 && row < height - 1)
        y += 0.25F * sign(map[best + width] - map[best - width]);
    point[0] = (x + 0.5F) * size[0] / static_cast<float>(width);
    point[1] = (y + 0.5F) * size[1] / static_cast<float>(height);
    point[2] = map[best];
}

void answer(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response) {
    pose::Input maps = pose::input_of(request, "MAPS"), sizes = pose::input_of(request, "SIZE");
    if (maps.shape.size() != 4 || maps.shape[2] * maps.shape[3] == 0)
        throw std::runtime_error("MAPS are no heat maps");
    int64_t rows = maps.shape[0], joints = maps.shape[1], height = maps.shape[2], width = maps.shape[3];
    float *points = pose::floats_of(response, "RESULT", {rows, joints, 3});
    const float *map = reinterpret_cast<const float *>(maps.data);
    const float *size = reinterpret_cast<const float *>(sizes.data);
    for (int64_t i = 0; i < rows * joints; i++)
        locate(map + i * height * width, height, width, size + i / joints * 2, points + i * 3);
}

}  // namespace

extern "C" TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *, TRITONBACKEND_Request **requests, const uint32_t request_count) {
    return pose::execute(requests, request_count, answer);
}
