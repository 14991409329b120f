// The backend `image_preprocess`: of picture files (JPEG, PNG) it makes the input of the pose network, [n,3,256,192], and
// the widths and heights of the pictures, [n,2].
#include <csetjmp>
#include <cstdio>

#include <jpeglib.h>
#include <png.h>

#include <algorithm>
#include <cmath>

#include "backend.h"

namespace {

constexpr int WIDTH = 192, HEIGHT = 256;
// A picture beyond it is refused before memory is taken for it.
constexpr uint64_t MAX_PIXELS = 64 << 20;
// Of the pictures that such networks are trained with.
constexpr float MEAN[] = {0.485F, 0.456F, 0.406F}, DEVIATION[] = {0.229F, 0.224F, 0.225F};

struct Picture {
    int width = 0, height = 0;
    std::vector<uint8_t> pixels;  // rows of red, green, blue

    void take_size(uint64_t wide, uint64_t high) {
        if (wide == 0 || high == 0 || wide > MAX_PIXELS || high > MAX_PIXELS / wide)
            throw std::runtime_error("INPUT is no picture: it has too many pixels, or none");
        width = static_cast<int>(wide);
        height = static_cast<int>(high);
        pixels.resize(wide * high * 3);
    }
};

// -- files

Picture read_png(const char *data, size_t nbytes) {
    Picture picture;
    png_image image = {};
    image.version = PNG_IMAGE_VERSION;
    if (!png_image_begin_read_from_memory(&image, data, nbytes))
        throw std::runtime_error(std::string("INPUT is no picture: ") + image.message);
    try {
        picture.take_size(image.width, image.height);
    } catch (...) {
        png_image_free(&image);
        throw;
    }
    image.format = PNG_FORMAT_RGB;
    png_color black = {0, 0, 0};
    if (!png_image_finish_read(&image, &black, picture.pixels.data(), 0, nullptr))
        throw std::runtime_error(std::string("INPUT is no picture: ") + image.message);
    return picture;
}

struct JpegErrors {
    jpeg_error_mgr manager;
    jmp_buf back;
    char text[JMSG_LENGTH_MAX];
};

void on_jpeg_error(j_common_ptr decoder) {
    auto *errors = reinterpret_cast<JpegErrors *>(decoder->err);
    decoder->err->format_message(decoder, errors->text);
    longjmp(errors->back, 1);
}

// Nothing here has a destructor: the library leaves it by longjmp. Whether `picture` was filled.
bool decode_jpeg(jpeg_decompress_struct *decoder, JpegErrors *errors, Picture *picture, void (*take_size)(Picture *, jpeg_decompress_struct *)) {
    if (setjmp(errors->back) != 0)
        return false;
    jpeg_read_header(decoder, TRUE);
    decoder->out_color_space = JCS_RGB;
    take_size(picture, decoder);
    if (picture->pixels.empty())
        return true;
    jpeg_start_decompress(decoder);
    while (decoder->output_scanline < decoder->output_height) {
        JSAMPROW row = picture->pixels.data() + static_cast<size_t>(decoder->output_scanline) * picture->width * 3;
        jpeg_read_scanlines(decoder, &row, 1);
    }
    jpeg_finish_decompress(decoder);
    return true;
}

Picture read_jpeg(const char *data, size_t nbytes) {
    Picture picture;
    JpegErrors errors = {};
    jpeg_decompress_struct decoder = {};
    decoder.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = on_jpeg_error;
    errors.manager.output_message = [](j_common_ptr) {};
    jpeg_create_decompress(&decoder);
    jpeg_mem_src(&decoder, reinterpret_cast<const unsigned char *>(data), nbytes);
    bool whole = decode_jpeg(&decoder, &errors, &picture, [](Picture *to, jpeg_decompress_struct *from) {
        try {
            to->take_size(from->image_width, from->image_height);
        } catch (const std::exception &) {
            to->pixels.clear();
        }
    });
    jpeg_destroy_decompress(&decoder);
    if (!whole)
        throw std::runtime_error(std::string("INPUT is no picture: ") + errors.text);
    if (picture.pixels.empty())
        throw std::runtime_error("INPUT is no picture: it has too many pixels, or none");
    return picture;
}

Picture read_picture(const char *data, size_t nbytes) {
    if (nbytes > 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0)
        return read_png(data, nbytes);
    if (nbytes > 3 && memcmp(data, "\xff\xd8\xff", 3) == 0)
        return read_jpeg(data, nbytes);
    throw std::runtime_error("INPUT is no picture: neither JPEG nor PNG");
}

// -- scaling, with a triangle as wide as a pixel of the smaller picture

struct Weights {
    int first = 0;
    std::vector<float> values;
};

std::vector<Weights> weights_of(int from, int to) {
    double scale = static_cast<double>(from) / to, support = std::max(scale, 1.0);
    std::vector<Weights> all(static_cast<size_t>(to));
    for (int place = 0; place < to; place++) {
        double centre = (place + 0.5) * scale, sum = 0;
        int first = std::max(static_cast<int>(centre - support + 0.5), 0);
        int last = std::min(static_cast<int>(centre + support + 0.5), from);
        Weights &one = all[static_cast<size_t>(place)];
        one.first = first;
        for (int i = first; i < last; i++) {
            double weight = std::max(1 - std::abs((i - centre + 0.5) / support), 0.0);
            one.values.push_back(static_cast<float>(weight));
            sum += weight;
        }
        for (float &value : one.values)
            value = static_cast<float>(value / sum);
    }
    return all;
}

// As planes, normalised.
void prepare(const Picture &picture, float *planes) {
    std::vector<Weights> across = weights_of(picture.width, WIDTH), down = weights_of(picture.height, HEIGHT);
    std::vector<float> narrow(static_cast<size_t>(picture.height) * WIDTH * 3);
    for (int y = 0; y < picture.height; y++)
        for (int x = 0; x < WIDTH; x++)
            for (int colour = 0; colour < 3; colour++) {
                const Weights &one = across[static_cast<size_t>(x)];
                const uint8_t *from = &picture.pixels[(static_cast<size_t>(y) * picture.width + one.first) * 3 + colour];
                float sum = 0;
                for (size_t i = 0; i < one.values.size(); i++)
                    sum += one.values[i] * from[i * 3];
                narrow[(static_cast<size_t>(y) * WIDTH + x) * 3 + colour] = std::round(sum);
            }
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++)
            for (int colour = 0; colour < 3; colour++) {
                const Weights &one = down[static_cast<size_t>(y)];
                float sum = 0;
                for (size_t i = 0; i < one.values.size(); i++)
                    sum += one.values[i] * narrow[((one.first + i) * WIDTH + x) * 3 + colour];
                planes[(colour * HEIGHT + y) * WIDTH + x] =
                    (std::round(sum) / 255 - MEAN[colour]) / DEVIATION[colour];
            }
}

// -- requests

void answer(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response) {
    pose::Input files = pose::input_of(request, "INPUT");
    int64_t rows = files.shape.at(0);
    float *planes = pose::floats_of(response, "PIXELS", {rows, 3, HEIGHT, WIDTH});
    float *sizes = pose::floats_of(response, "SIZE", {rows, 2});
    uint64_t at = 0;
    for (int64_t i = 0; i < rows; i++) {
        uint32_t nbytes;
        if (files.nbytes - at < sizeof(nbytes))
            throw std::runtime_error("INPUT ends too early");
        memcpy(&nbytes, files.data + at, sizeof(nbytes));
        at += sizeof(nbytes);
        if (files.nbytes - at < nbytes)
            throw std::runtime_error("INPUT ends too early");
        Picture picture = read_picture(files.data + at, nbytes);
        at += nbytes;
        prepare(picture, planes + i * 3 * HEIGHT * WIDTH);
        sizes[i * 2] = static_cast<float>(picture.width);
        sizes[i * 2 + 1] = static_cast<float>(picture.height);
    }
}

}  // namespace

extern "C" TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *, TRITONBACKEND_Request **requests, const uint32_t request_count) {
    return pose::execute(requests, request_count, answer);
}
