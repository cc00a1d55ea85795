/* The functions of CUDA's driver that sessions call, over host memory: libcuda.so.1 for a machine without a GPU.
 *
 * It runs no kernel. It shows that our calls through the real cuda-python fit together: handles, addresses, pitches,
 * what is freed and what is not, and what happens where memory ends (HOSTCUDA_BYTES). Work that is put into a stream
 * is done at once, unless the stream is capturing.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_FOUND = 500 };

/* CUDA_MEMCPY2D of cuda.h. */
typedef struct {
    size_t srcXInBytes, srcY;
    int srcMemoryType;
    const void *srcHost;
    uint64_t srcDevice;
    void *srcArray;
    size_t srcPitch;
    size_t dstXInBytes, dstY;
    int dstMemoryType;
    void *dstHost;
    uint64_t dstDevice;
    void *dstArray;
    size_t dstPitch;
    size_t WidthInBytes, Height;
} Copy2D;

typedef struct Work {
    char *target;
    const char *source; /* NULL: zeros */
    size_t target_pitch, source_pitch, width, height;
    struct Work *next;
} Work;

typedef struct {
    int capturing;
    Work *work, **end;
} Stream;

static size_t held, blocks, pinned, streams, graphs;
static _Thread_local int depth;

static void run(const Work *work) {
    for (size_t row = 0; row < work->height; row++) {
        char *target = work->target + row * work->target_pitch;
        if (work->source)
            memcpy(target, work->source + row * work->source_pitch, work->width);
        else
            memset(target, 0, work->width);
    }
}

static int put(Stream *stream, Work work) {
    if (!depth || !stream) return INVALID_CONTEXT;
    if (!stream->capturing) {
        run(&work);
        return SUCCESS;
    }
    Work *copy = malloc(sizeof *copy);
    *copy = work;
    copy->next = NULL;
    *stream->end = copy;
    stream->end = &copy->next;
    return SUCCESS;
}

static int init(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
static int version(int *found) { *found = 13000; return SUCCESS; }
static int count(int *found) { *found = 1; return SUCCESS; }
static int device(int *found, int index) { *found = index; return index ? INVALID_VALUE : SUCCESS; }
static int name(char *found, int size, int index) {
    (void)index;
    strncpy(found, "Host memory", (size_t)size);
    return SUCCESS;
}
static int attribute(int *found, int which, int index) {
    (void)index;
    *found = which == 75 ? 8 : which == 76 ? 9 : 0;
    return SUCCESS;
}
static int total(size_t *found, int index) { (void)index; *found = 1 << 30; return SUCCESS; }
static int retain(void **context, int index) { (void)index; *context = &held; return SUCCESS; }
static int release(int index) { (void)index; return SUCCESS; }
static int push(void *context) { depth++; return context == &held ? SUCCESS : INVALID_CONTEXT; }
static int pop(void **context) {
    *context = &held;
    return depth-- > 0 ? SUCCESS : INVALID_CONTEXT;
}

static int allocate(uint64_t *address, size_t size) {
    const char *limit = getenv("HOSTCUDA_BYTES");
    if (!depth) return INVALID_CONTEXT;
    if (limit && held + size > strtoull(limit, NULL, 10)) return OUT_OF_MEMORY;
    size_t *block = malloc(size + 256);
    *block = size;
    memset((char *)block + 256, 0xAB, size); /* fresh memory holds anything */
    held += size;
    blocks++;
    *address = (uint64_t)(uintptr_t)block + 256;
    return SUCCESS;
}
static int release_memory(uint64_t address) {
    if (!depth) return INVALID_CONTEXT;
    size_t *block = (size_t *)(uintptr_t)(address - 256);
    held -= *block;
    blocks--;
    free(block);
    return SUCCESS;
}
static int pin(void **address, size_t size, unsigned flags) {
    (void)flags;
    if (!depth) return INVALID_CONTEXT;
    *address = malloc(size);
    pinned++;
    return SUCCESS;
}
static int unpin(void *address) {
    if (!depth) return INVALID_CONTEXT;
    free(address);
    pinned--;
    return SUCCESS;
}

static int open_stream(Stream **stream, unsigned flags) {
    (void)flags;
    if (!depth) return INVALID_CONTEXT;
    *stream = calloc(1, sizeof **stream);
    streams++;
    return SUCCESS;
}
static int close_stream(Stream *stream) {
    free(stream);
    streams--;
    return SUCCESS;
}
static int wait(Stream *stream) { return depth && !stream->capturing ? SUCCESS : INVALID_CONTEXT; }
static int fill(uint64_t address, unsigned char value, size_t size, Stream *stream) {
    if (value) return INVALID_VALUE;
    return put(stream, (Work){(char *)(uintptr_t)address, NULL, 0, 0, size, 1, NULL});
}
static int upload(uint64_t target, const void *source, size_t size, Stream *stream) {
    return put(stream, (Work){(char *)(uintptr_t)target, source, 0, 0, size, 1, NULL});
}
static int download(void *target, uint64_t source, size_t size, Stream *stream) {
    return put(stream, (Work){target, (const char *)(uintptr_t)source, 0, 0, size, 1, NULL});
}
static int copy(const Copy2D *block, Stream *stream) {
    if (block->srcMemoryType != 2 || block->dstMemoryType != 2) return INVALID_VALUE;
    if (block->srcPitch < block->WidthInBytes || block->dstPitch < block->WidthInBytes) return INVALID_VALUE;
    return put(stream, (Work){(char *)(uintptr_t)block->dstDevice, (const char *)(uintptr_t)block->srcDevice,
                              block->dstPitch, block->srcPitch, block->WidthInBytes, block->Height, NULL});
}

static int begin(Stream *stream, int mode) {
    (void)mode;
    stream->capturing = 1;
    stream->work = NULL;
    stream->end = &stream->work;
    return SUCCESS;
}
static int end(Stream *stream, Work **graph) {
    stream->capturing = 0;
    *graph = stream->work;
    return SUCCESS;
}
static int instantiate(Work **launched, Work *graph, unsigned long long flags) {
    (void)flags;
    *launched = graph;
    graphs++;
    return SUCCESS;
}
static int launch(Work *launched, Stream *stream) {
    (void)stream;
    for (; launched; launched = launched->next) run(launched);
    return SUCCESS;
}
static int drop_graph(Work *graph) { (void)graph; return SUCCESS; }
static int drop_launched(Work *launched) {
    while (launched) {
        Work *next = launched->next;
        free(launched);
        launched = next;
    }
    graphs--;
    return SUCCESS;
}

/* What is still held: device bytes, blocks of them, pinned blocks, streams, graphs. */
void hostcuda_held(size_t found[5]) {
    size_t all[5] = {held, blocks, pinned, streams, graphs};
    memcpy(found, all, sizeof all);
}

static const struct {
    const char *name;
    void *function;
} TABLE[] = {
    {"cuInit", init}, {"cuDriverGetVersion", version}, {"cuDeviceGetCount", count}, {"cuDeviceGet", device},
    {"cuDeviceGetName", name}, {"cuDeviceGetAttribute", attribute}, {"cuDeviceTotalMem", total},
    {"cuDevicePrimaryCtxRetain", retain}, {"cuDevicePrimaryCtxRelease", release}, {"cuCtxPushCurrent", push},
    {"cuCtxPopCurrent", pop}, {"cuMemAlloc", allocate}, {"cuMemFree", release_memory}, {"cuMemHostAlloc", pin},
    {"cuMemFreeHost", unpin}, {"cuStreamCreate", open_stream}, {"cuStreamDestroy", close_stream},
    {"cuStreamSynchronize", wait}, {"cuMemsetD8Async", fill}, {"cuMemcpyHtoDAsync", upload},
    {"cuMemcpyDtoHAsync", download}, {"cuMemcpy2DAsync", copy}, {"cuStreamBeginCapture", begin},
    {"cuStreamEndCapture", end}, {"cuGraphInstantiateWithFlags", instantiate}, {"cuGraphLaunch", launch},
    {"cuGraphDestroy", drop_graph}, {"cuGraphExecDestroy", drop_launched},
};

/* What the whole API is looked up by. */
int cuGetProcAddress_v2(const char *wanted, void **function, int cuda, uint64_t flags, int *status) {
    (void)cuda, (void)flags;
    *function = NULL;
    for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE; i++)
        if (!strcmp(wanted, TABLE[i].name)) *function = TABLE[i].function;
    if (!strcmp(wanted, "cuGetProcAddress")) *function = (void *)cuGetProcAddress_v2;
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
int cuGetProcAddress(const char *wanted, void **function, int cuda, uint64_t flags) {
    return cuGetProcAddress_v2(wanted, function, cuda, flags, NULL);
}

/* What is called by name. */
int cuInit(unsigned flags) { return init(flags); }
int cuDriverGetVersion(int *found) { return version(found); }
int cuDeviceGetCount(int *found) { return count(found); }
int cuDeviceGet(int *found, int index) { return device(found, index); }
int cuDeviceGetName(char *found, int size, int index) { return name(found, size, index); }
int cuDeviceGetAttribute(int *found, int which, int index) { return attribute(found, which, index); }
int cuDeviceTotalMem_v2(size_t *found, int index) { return total(found, index); }
