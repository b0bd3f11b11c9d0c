/*
 * What the header promises, on a model: NULL and wrong arguments are errors, handles may be freed in
 * any order, a refused release leaves the lease, errors belong to threads, a child of fork() leaves
 * everything to its parent. Run under valgrind and ASan as well.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "spapr_iommu.h"

static const uint64_t MIB = 1 << 20;
static const uint32_t LIOBN = 0x80000000;

static void fail(int line, const char *call, int status)
{
    fprintf(stderr, "line %d: %s: %s (%s): %s\n", line, call, spapr_iommu_status_name(status),
            spapr_iommu_error_code(), spapr_iommu_error_message());
    exit(1);
}

static int is_code(int status, int expected, const char *code)
{
    return status == expected && spapr_iommu_error_status() == expected && !strcmp(spapr_iommu_error_code(), code) &&
           *spapr_iommu_error_message();
}

#define GOOD(call)                                                                                                    \
    do {                                                                                                              \
        int status_ = (call);                                                                                         \
        if (status_ != SPAPR_IOMMU_OK)                                                                                \
            fail(__LINE__, #call, status_);                                                                           \
    } while (0)

#define REFUSED(call, status, code)                                                                                   \
    do {                                                                                                              \
        int status_ = (call);                                                                                         \
        if (!is_code(status_, (status), (code)))                                                                      \
            fail(__LINE__, #call, status_);                                                                           \
    } while (0)

#define IS_NULL(call) REFUSED(call, SPAPR_IOMMU_ARGUMENT, "null")

#define TRUE(what)                                                                                                    \
    do {                                                                                                              \
        if (!(what))                                                                                                  \
            fail(__LINE__, #what, 0);                                                                                 \
    } while (0)

static spapr_iommu_range range(uint64_t start, uint64_t size)
{
    return (spapr_iommu_range){.start = start, .size = size};
}

/* A machine with memory, a registry and a space of group 0. */
struct machine {
    spapr_iommu_host *host;
    spapr_iommu_memory *memory;
    spapr_iommu_registry *registry;
    spapr_iommu_lease *lease;
    spapr_iommu_space *space;
    void *start;
};

static struct machine machine(const char *preset)
{
    struct machine m;

    GOOD(spapr_iommu_host_model(preset, &m.host));
    GOOD(spapr_iommu_memory_allocate(m.host, MIB, 0, &m.memory));
    GOOD(spapr_iommu_registry_new(m.host, &m.registry));
    GOOD(spapr_iommu_register(m.registry, m.memory, &m.lease));
    GOOD(spapr_iommu_space_new(m.registry, &m.space));
    GOOD(spapr_iommu_space_attach(m.space, 0));
    m.start = spapr_iommu_memory_address(m.memory);
    return m;
}

static void end(struct machine *m)
{
    spapr_iommu_host_free(m->host);
    spapr_iommu_registry_free(m->registry);
    spapr_iommu_space_free(m->space);
    spapr_iommu_lease_free(m->lease);
    spapr_iommu_memory_free(m->memory);
}

/* Every pointer that may not be NULL, one call for each function. */
static void null_is_an_error(void)
{
    struct machine m = machine("powernv9-64k");
    void *handle = &m;
    spapr_iommu_window_request request = {.struct_size = sizeof request, .bytes = MIB};
    spapr_iommu_phb_config config = {.struct_size = sizeof config, .liobn = LIOBN};
    spapr_iommu_ddw_tokens tokens = {1, 2, 3, 4};
    uint64_t args[9] = {0};
    int64_t result;
    size_t count;

    IS_NULL(spapr_iommu_host_kernel(NULL));
    IS_NULL(spapr_iommu_host_kernel_files(NULL, 0, NULL));
    IS_NULL(spapr_iommu_host_kernel_files(NULL, 1, (spapr_iommu_host **)&handle));
    TRUE(handle == NULL);
    handle = &m;
    IS_NULL(spapr_iommu_host_model("powernv9", NULL));
    IS_NULL(spapr_iommu_host_model(NULL, (spapr_iommu_host **)&handle));
    TRUE(handle == NULL);
    IS_NULL(spapr_iommu_host_devices(NULL, NULL, 0, &count));
    IS_NULL(spapr_iommu_host_devices(m.host, NULL, 0, NULL));
    IS_NULL(spapr_iommu_host_devices(m.host, NULL, 1, &count));
    TRUE(spapr_iommu_host_page_shift(NULL) == 0 && spapr_iommu_host_page_shift(m.host) == 16);

    handle = &m;
    IS_NULL(spapr_iommu_memory_allocate(NULL, MIB, 0, (spapr_iommu_memory **)&handle));
    TRUE(handle == NULL);
    IS_NULL(spapr_iommu_memory_allocate(m.host, MIB, 0, NULL));
    IS_NULL(spapr_iommu_memory_file(NULL, 0, 0, MIB, (spapr_iommu_memory **)&handle));
    IS_NULL(spapr_iommu_memory_borrow(NULL, &m, MIB, (spapr_iommu_memory **)&handle));
    IS_NULL(spapr_iommu_memory_borrow(m.host, NULL, MIB, (spapr_iommu_memory **)&handle));
    TRUE(spapr_iommu_memory_address(NULL) == NULL && spapr_iommu_memory_size(NULL) == 0);

    IS_NULL(spapr_iommu_registry_new(NULL, (spapr_iommu_registry **)&handle));
    IS_NULL(spapr_iommu_registry_regions(NULL, NULL, 0, &count));
    IS_NULL(spapr_iommu_register(m.registry, NULL, (spapr_iommu_lease **)&handle));
    IS_NULL(spapr_iommu_register(m.registry, m.memory, NULL));
    IS_NULL(spapr_iommu_lease_release(NULL));

    IS_NULL(spapr_iommu_space_new(NULL, (spapr_iommu_space **)&handle));
    IS_NULL(spapr_iommu_space_attach(NULL, 0));
    IS_NULL(spapr_iommu_space_attach_beside(NULL, 1, 0));
    IS_NULL(spapr_iommu_space_detach(NULL, 0));
    spapr_iommu_window_plan plan;
    IS_NULL(spapr_iommu_space_plan_window(m.space, NULL, &plan));
    IS_NULL(spapr_iommu_space_plan_window(m.space, &request, NULL));
    IS_NULL(spapr_iommu_space_create_window(m.space, NULL, NULL));
    IS_NULL(spapr_iommu_space_create_window(NULL, &request, NULL));
    IS_NULL(spapr_iommu_space_remove_window(NULL, 0));
    IS_NULL(spapr_iommu_space_drop_default_window(NULL));
    IS_NULL(spapr_iommu_space_reserve(NULL, range(0, MIB), NULL));
    IS_NULL(spapr_iommu_space_unreserve(NULL, range(0, MIB)));
    IS_NULL(spapr_iommu_space_windows(NULL, NULL, 0, &count, NULL));
    IS_NULL(spapr_iommu_space_map(NULL, range(0, MIB), m.start, SPAPR_IOMMU_READ));
    IS_NULL(spapr_iommu_space_map_all(m.space, NULL, 1, 0));
    IS_NULL(spapr_iommu_space_unmap(NULL, range(0, MIB), NULL));
    IS_NULL(spapr_iommu_space_translate(m.space, 0, NULL));
    IS_NULL(spapr_iommu_space_mappings(NULL, range(0, MIB), NULL, 0, &count));

    IS_NULL(spapr_iommu_device_open(NULL, 0, "0000:00:00.0", (spapr_iommu_device **)&handle));
    IS_NULL(spapr_iommu_device_open(m.space, 0, NULL, (spapr_iommu_device **)&handle));
    IS_NULL(spapr_iommu_device_start_dma(NULL));
    IS_NULL(spapr_iommu_device_stop_dma(NULL));
    IS_NULL(spapr_iommu_device_reset(NULL));
    TRUE(spapr_iommu_device_file(NULL) == -1);
    IS_NULL(spapr_iommu_bar_open(NULL, 0, 0, (spapr_iommu_bar **)&handle));
    IS_NULL(spapr_iommu_bar_read(NULL, 0, 4, args));
    IS_NULL(spapr_iommu_bar_write(NULL, 0, 4, 0));

    IS_NULL(spapr_iommu_device_interrupts(NULL, SPAPR_IOMMU_MSI, (uint32_t *)args));
    IS_NULL(spapr_iommu_interrupts_enable(NULL, SPAPR_IOMMU_MSI, NULL, 0, (spapr_iommu_interrupts **)&handle));
    IS_NULL(spapr_iommu_interrupts_rearm(NULL));
    IS_NULL(spapr_iommu_interrupts_rearm_by(NULL, 0));

    IS_NULL(spapr_iommu_guest_new(NULL, (spapr_iommu_guest **)&handle));
    IS_NULL(spapr_iommu_guest_new_kvm(NULL, 0, -1, (spapr_iommu_guest **)&handle));
    IS_NULL(spapr_iommu_guest_add_memory(NULL, 0, m.memory));
    IS_NULL(spapr_iommu_guest_remove_memory(NULL, 0, MIB));
    IS_NULL(spapr_iommu_guest_keep_memory(NULL, 0, MIB));
    IS_NULL(spapr_iommu_guest_add_phb(NULL, &config, NULL));
    IS_NULL(spapr_iommu_guest_phb(NULL, 0, (spapr_iommu_phb **)&handle));
    IS_NULL(spapr_iommu_guest_remove_phb(NULL, 0));
    IS_NULL(spapr_iommu_guest_reset(NULL));
    IS_NULL(spapr_iommu_guest_hcall(NULL, SPAPR_IOMMU_H_PUT_TCE, args, &result));
    IS_NULL(spapr_iommu_guest_put_tce(NULL, LIOBN, 0, 0, NULL));
    IS_NULL(spapr_iommu_guest_put_tce_indirect(NULL, LIOBN, 0, 0, 0, NULL));
    IS_NULL(spapr_iommu_guest_stuff_tce(NULL, LIOBN, 0, 0, 1, NULL));
    IS_NULL(spapr_iommu_guest_get_tce(NULL, LIOBN, 0, args, NULL));
    spapr_iommu_guest_translation there;
    IS_NULL(spapr_iommu_guest_translate(NULL, LIOBN, 0, &there));
    IS_NULL(spapr_iommu_guest_save(NULL, NULL, 0, &count));
    IS_NULL(spapr_iommu_guest_restore(NULL, NULL, 0));
    IS_NULL(spapr_iommu_guest_rtas(NULL, &tokens, 1, NULL, 0, NULL, 0));
    IS_NULL(spapr_iommu_guest_h_rtas(NULL, &tokens, 0, &result));

    IS_NULL(spapr_iommu_phb_attach(NULL, 0));
    IS_NULL(spapr_iommu_phb_detach(NULL, 0));
    IS_NULL(spapr_iommu_phb_space(NULL, (spapr_iommu_space **)&handle));
    IS_NULL(spapr_iommu_phb_translate(NULL, 0, &there));
    IS_NULL(spapr_iommu_phb_read(NULL, 0, args, 8));
    IS_NULL(spapr_iommu_phb_write(NULL, 0, args, 8));
    IS_NULL(spapr_iommu_phb_properties(NULL, &tokens, NULL, 0, &count));

    spapr_iommu_host_free(NULL);
    spapr_iommu_memory_free(NULL);
    spapr_iommu_registry_free(NULL);
    spapr_iommu_lease_free(NULL);
    spapr_iommu_space_free(NULL);
    spapr_iommu_device_free(NULL);
    spapr_iommu_bar_free(NULL);
    spapr_iommu_interrupts_free(NULL);
    spapr_iommu_guest_free(NULL);
    spapr_iommu_phb_free(NULL);
    end(&m);
}

static void wrong_arguments_are_errors(void)
{
    struct machine m = machine("powernv9-64k");
    spapr_iommu_host *host;
    spapr_iommu_memory *memory;
    spapr_iommu_device *device;
    spapr_iommu_bar *bar;
    uint64_t value;

    REFUSED(spapr_iommu_host_model("vax", &host), SPAPR_IOMMU_ARGUMENT, "unknown-machine");
    REFUSED(spapr_iommu_host_model("\xff", &host), SPAPR_IOMMU_ARGUMENT, "not-utf-8");
    REFUSED(spapr_iommu_memory_allocate(m.host, MIB, 5, &memory), SPAPR_IOMMU_ARGUMENT, "page-shift");
    TRUE(spapr_iommu_memory_allocate(m.host, 0, 0, &memory) < 0 && memory == NULL);
    TRUE(spapr_iommu_memory_allocate(m.host, UINT64_MAX, 0, &memory) < 0 && memory == NULL);
    REFUSED(spapr_iommu_memory_file(m.host, -1, 0, MIB, &memory), SPAPR_IOMMU_ARGUMENT, "file");
    REFUSED(spapr_iommu_memory_borrow(m.host, (char *)m.start + 1, MIB, &memory), SPAPR_IOMMU_ARGUMENT, "misaligned");
    REFUSED(spapr_iommu_memory_borrow(m.host, m.start, 0, &memory), SPAPR_IOMMU_ARGUMENT, "empty");
    REFUSED(spapr_iommu_memory_borrow(m.host, m.start, UINT64_MAX, &memory), SPAPR_IOMMU_ARGUMENT, "wraps");
    /* The model has this memory already. */
    REFUSED(spapr_iommu_memory_borrow(m.host, m.start, MIB, &memory), SPAPR_IOMMU_BUSY, "lent-already");

    /* Structures of other versions. */
    struct {
        spapr_iommu_window_request request;
        uint64_t later;
    } newer = {.request = {.struct_size = sizeof newer, .bytes = MIB, .page_shift = 16}};
    spapr_iommu_window_plan plan;
    GOOD(spapr_iommu_space_plan_window(m.space, &newer.request, &plan));
    TRUE(plan.page_shift == 16 && plan.size >= MIB && plan.locked_bytes > 0);
    newer.later = 1;
    REFUSED(spapr_iommu_space_plan_window(m.space, &newer.request, &plan), SPAPR_IOMMU_ARGUMENT, "struct-size");
    spapr_iommu_window_request request = {.bytes = MIB};
    REFUSED(spapr_iommu_space_create_window(m.space, &request, NULL), SPAPR_IOMMU_ARGUMENT, "struct-size");
    request.struct_size = sizeof request;
    request.reserved = 1;
    REFUSED(spapr_iommu_space_create_window(m.space, &request, NULL), SPAPR_IOMMU_ARGUMENT, "window-request");
    request = (spapr_iommu_window_request){.struct_size = sizeof request};
    REFUSED(spapr_iommu_space_create_window(m.space, &request, NULL), SPAPR_IOMMU_ARGUMENT, "window-request");
    request.bytes = MIB;
    request.cover = range(0, MIB);
    REFUSED(spapr_iommu_space_create_window(m.space, &request, NULL), SPAPR_IOMMU_ARGUMENT, "window-request");
    request.cover = range(0, 0);
    request.page_shift = 99;
    REFUSED(spapr_iommu_space_create_window(m.space, &request, NULL), SPAPR_IOMMU_ARGUMENT, "page-shift");

    REFUSED(spapr_iommu_space_map(m.space, range(0, MIB), m.start, 0), SPAPR_IOMMU_ARGUMENT, "permission");
    REFUSED(spapr_iommu_space_map(m.space, range(0, MIB), m.start, 7), SPAPR_IOMMU_ARGUMENT, "permission");
    REFUSED(spapr_iommu_space_map(m.space, range(0, 0), m.start, 1), SPAPR_IOMMU_ARGUMENT, "empty");
    REFUSED(spapr_iommu_space_map(m.space, range(UINT64_MAX, 2), m.start, 1), SPAPR_IOMMU_ARGUMENT, "wraps");
    REFUSED(spapr_iommu_space_map(m.space, range(0, MIB), &m, 1), SPAPR_IOMMU_ARGUMENT, "user-misaligned");
    REFUSED(spapr_iommu_space_map(m.space, range(0, 4096), NULL, 1), SPAPR_IOMMU_NOT_FOUND, "not-registered");
    spapr_iommu_mapping map = {.iova = range(0, MIB), .address = (uintptr_t)m.start, .permission = 3, .reserved = 1};
    REFUSED(spapr_iommu_space_map_all(m.space, &map, 1, 0), SPAPR_IOMMU_ARGUMENT, "reserved");
    map.reserved = 0;
    REFUSED(spapr_iommu_space_map_all(m.space, &map, 1, 2), SPAPR_IOMMU_ARGUMENT, "flags");
    REFUSED(spapr_iommu_space_map_all(m.space, &map, SIZE_MAX, 0), SPAPR_IOMMU_ARGUMENT, "array");
    REFUSED(spapr_iommu_space_attach(m.space, 0), SPAPR_IOMMU_BUSY, "attached-already");
    REFUSED(spapr_iommu_space_attach(m.space, 9), SPAPR_IOMMU_SETUP, "no-group");
    REFUSED(spapr_iommu_space_detach(m.space, 1), SPAPR_IOMMU_NOT_FOUND, "not-attached");
    spapr_iommu_translation found;
    REFUSED(spapr_iommu_space_translate(m.space, 0, &found), SPAPR_IOMMU_NOT_FOUND, "not-mapped");

    REFUSED(spapr_iommu_device_open(m.space, 0, "edu", &device), SPAPR_IOMMU_ARGUMENT, "no-pci-address");
    GOOD(spapr_iommu_device_open(m.space, 0, "0000:00:00.0", &device));
    TRUE(spapr_iommu_device_file(device) == -1);
    REFUSED(spapr_iommu_bar_open(device, 0, 2, &bar), SPAPR_IOMMU_ARGUMENT, "endian");
    REFUSED(spapr_iommu_bar_open(device, 9, 0, &bar), SPAPR_IOMMU_NOT_FOUND, "no-bar");
    GOOD(spapr_iommu_bar_open(device, 0, SPAPR_IOMMU_BIG_ENDIAN, &bar));
    REFUSED(spapr_iommu_bar_read(bar, 0, 3, &value), SPAPR_IOMMU_ARGUMENT, "width");
    REFUSED(spapr_iommu_bar_write(bar, 4, 4, UINT64_MAX), SPAPR_IOMMU_ARGUMENT, "width");
    REFUSED(spapr_iommu_bar_read(bar, UINT64_MAX - 7, 8, &value), SPAPR_IOMMU_ARGUMENT, "outside");
    REFUSED(spapr_iommu_bar_read(bar, 2, 4, &value), SPAPR_IOMMU_ARGUMENT, "misaligned");
    GOOD(spapr_iommu_bar_read(bar, 0, 4, &value));
    TRUE((value & 0xffff) == 0xed);
    /* The identification of edu, and a register that inverts. */
    GOOD(spapr_iommu_bar_write(bar, 4, 4, 0));
    GOOD(spapr_iommu_device_start_dma(device));
    GOOD(spapr_iommu_device_stop_dma(device));
    GOOD(spapr_iommu_device_reset(device));
    REFUSED(spapr_iommu_space_detach(m.space, 0), SPAPR_IOMMU_BUSY, "devices-open");
    spapr_iommu_device_free(device);
    spapr_iommu_bar_free(bar);

    TRUE(!strcmp(spapr_iommu_status_name(SPAPR_IOMMU_MEMLOCK), "memlock"));
    TRUE(!strcmp(spapr_iommu_status_name(77), "unknown"));
    end(&m);
}

static void a_space_maps_and_a_lease_stays(void)
{
    struct machine m = machine("powernv9-64k");
    spapr_iommu_window windows[2];
    spapr_iommu_window_request request = {.struct_size = sizeof request, .bytes = 1 << 30};
    spapr_iommu_mapping maps[2];
    spapr_iommu_translation there;
    spapr_iommu_region regions[2];
    uint64_t bytes;
    uint32_t state;
    size_t count;

    GOOD(spapr_iommu_space_windows(m.space, windows, 2, &count, &state));
    TRUE(count == 0 && state == SPAPR_IOMMU_DEFAULT_PENDING);
    GOOD(spapr_iommu_space_create_window(m.space, &request, windows));
    TRUE(windows[0].range.size == 1 << 30 && windows[0].page_shift == 16);
    TRUE(windows[0].origin == SPAPR_IOMMU_ORIGIN_REQUESTED);
    uint64_t start = windows[0].range.start;
    GOOD(spapr_iommu_space_map(m.space, range(start, MIB), m.start, SPAPR_IOMMU_READ | SPAPR_IOMMU_WRITE));
    REFUSED(spapr_iommu_space_remove_window(m.space, start), SPAPR_IOMMU_BUSY, "in-use");
    spapr_iommu_mapping again = {.iova = range(start, 65536), .address = (uintptr_t)m.start + 65536, .permission = 1};
    REFUSED(spapr_iommu_space_map_all(m.space, &again, 1, 0), SPAPR_IOMMU_BUSY, "overlap");
    GOOD(spapr_iommu_space_map_all(m.space, &again, 1, SPAPR_IOMMU_REPLACE));
    GOOD(spapr_iommu_space_map_all(m.space, NULL, 0, 0));
    GOOD(spapr_iommu_space_translate(m.space, start + 5, &there));
    TRUE(there.address == (uintptr_t)m.start + 65541 && there.permission == SPAPR_IOMMU_READ);
    /* The array is shorter than the list. */
    GOOD(spapr_iommu_space_mappings(m.space, range(start, MIB), maps, 1, &count));
    TRUE(count == 2 && maps[0].iova.size == 65536);
    GOOD(spapr_iommu_registry_regions(m.registry, regions, 2, &count));
    TRUE(count == 1 && regions[0].size == MIB && regions[0].mapped == MIB && regions[0].leases == 1);

    REFUSED(spapr_iommu_lease_release(m.lease), SPAPR_IOMMU_BUSY, "still-mapped");
    REFUSED(spapr_iommu_lease_release(m.lease), SPAPR_IOMMU_BUSY, "still-mapped");
    GOOD(spapr_iommu_space_unmap(m.space, range(start, MIB), &bytes));
    TRUE(bytes == MIB);
    GOOD(spapr_iommu_lease_release(m.lease));
    m.lease = NULL;
    GOOD(spapr_iommu_registry_regions(m.registry, NULL, 0, &count));
    TRUE(count == 0);
    GOOD(spapr_iommu_space_remove_window(m.space, start));
    GOOD(spapr_iommu_space_reserve(m.space, range(0, MIB), &windows[0]));
    TRUE(windows[0].range.start == 0);
    GOOD(spapr_iommu_space_unreserve(m.space, range(0, MIB)));
    GOOD(spapr_iommu_space_drop_default_window(m.space));
    GOOD(spapr_iommu_space_attach_beside(m.space, 1, 0));
    GOOD(spapr_iommu_space_detach(m.space, 1));
    end(&m);
}

static void handles_may_be_freed_in_any_order(void)
{
    struct machine m = machine("pseries-64k");
    volatile uint8_t *start = m.start;
    void *mine = aligned_alloc(65536, MIB);
    spapr_iommu_memory *memory;
    spapr_iommu_lease *lease;
    spapr_iommu_translation there;

    GOOD(spapr_iommu_memory_borrow(m.host, mine, MIB, &memory));
    GOOD(spapr_iommu_register(m.registry, memory, &lease));
    spapr_iommu_memory_free(memory);
    spapr_iommu_memory_free(m.memory);
    spapr_iommu_host_free(m.host);
    spapr_iommu_registry_free(m.registry);
    GOOD(spapr_iommu_space_map(m.space, range(0, MIB), m.start, SPAPR_IOMMU_READ));
    start[MIB - 1] = 1;
    GOOD(spapr_iommu_space_unmap(m.space, range(0, MIB), NULL));
    spapr_iommu_lease_free(m.lease);

    /* What lost its lease stays mapped, and takes no new mapping. */
    GOOD(spapr_iommu_space_map(m.space, range(0, MIB), mine, SPAPR_IOMMU_READ));
    spapr_iommu_lease_free(lease);
    GOOD(spapr_iommu_space_translate(m.space, 0, &there));
    REFUSED(spapr_iommu_space_map(m.space, range(MIB, MIB), mine, SPAPR_IOMMU_READ), SPAPR_IOMMU_NOT_FOUND,
            "not-registered");
    spapr_iommu_space_free(m.space);
    free(mine);
}

static void memory_of_the_caller_is_lent(void)
{
    struct machine m = machine("powernv9-64k");
    spapr_iommu_memory *memory;
    spapr_iommu_lease *lease;
    int fd = memfd_create("guest", MFD_ALLOW_SEALING);

    void *mine = aligned_alloc(65536, MIB);
    TRUE(mine && fd >= 0);
    for (int round = 0; round < 2; round++) {
        GOOD(spapr_iommu_memory_borrow(m.host, mine, MIB, &memory));
        TRUE(spapr_iommu_memory_address(memory) == mine && spapr_iommu_memory_size(memory) == MIB);
        GOOD(spapr_iommu_register(m.registry, memory, &lease));
        spapr_iommu_memory_free(memory);
        GOOD(spapr_iommu_space_map(m.space, range(0, MIB), mine, SPAPR_IOMMU_READ));
        GOOD(spapr_iommu_space_unmap(m.space, range(0, MIB), NULL));
        /* Then it may be lent again. */
        GOOD(spapr_iommu_lease_release(lease));
    }
    /* A guest that is freed has nothing left of it either. */
    spapr_iommu_guest *guest;
    spapr_iommu_phb *phb;
    spapr_iommu_phb_config config = {.struct_size = sizeof config, .buid = 1, .liobn = LIOBN};
    size_t count;
    GOOD(spapr_iommu_memory_borrow(m.host, mine, MIB, &memory));
    GOOD(spapr_iommu_guest_new(m.registry, &guest));
    GOOD(spapr_iommu_guest_add_memory(guest, 0, memory));
    spapr_iommu_memory_free(memory);
    GOOD(spapr_iommu_guest_add_phb(guest, &config, &phb));
    GOOD(spapr_iommu_phb_attach(phb, 1));
    GOOD(spapr_iommu_guest_put_tce(guest, LIOBN, 0, 3, NULL));
    spapr_iommu_guest_free(guest);
    GOOD(spapr_iommu_registry_regions(m.registry, NULL, 0, &count));
    TRUE(count == 2);
    spapr_iommu_phb_free(phb);
    GOOD(spapr_iommu_registry_regions(m.registry, NULL, 0, &count));
    TRUE(count == 1);
    free(mine);

    REFUSED(spapr_iommu_memory_file(m.host, fd, 0, MIB, &memory), SPAPR_IOMMU_ARGUMENT, "short");
    TRUE(ftruncate(fd, MIB) == 0 && pwrite(fd, "x", 1, 7) == 1);
    GOOD(spapr_iommu_memory_file(m.host, fd, 0, MIB, &memory));
    close(fd);
    TRUE(((volatile char *)spapr_iommu_memory_address(memory))[7] == 'x');
    GOOD(spapr_iommu_register(m.registry, memory, &lease));
    GOOD(spapr_iommu_lease_release(lease));
    spapr_iommu_memory_free(memory);
    end(&m);
}

static void files_of_vfio_are_handed_in(void)
{
    spapr_iommu_host *host;
    spapr_iommu_registry *registry;
    spapr_iommu_space *space;
    int fd = memfd_create("vfio", MFD_CLOEXEC);
    spapr_iommu_file files[] = {
        {.kind = SPAPR_IOMMU_FILE_CONTAINER, .fd = fd},
        {.kind = SPAPR_IOMMU_FILE_CONTAINER, .fd = fd},
        {.kind = SPAPR_IOMMU_FILE_GROUP, .fd = fd, .group = 7},
        {.kind = SPAPR_IOMMU_FILE_DEVICE, .fd = fd, .address = "0000:01:00.0"},
        {.kind = SPAPR_IOMMU_FILE_GROUP, .fd = fd, .group = 7},
    };
    spapr_iommu_file wrong[] = {
        {.kind = 3, .fd = fd},
        {.kind = SPAPR_IOMMU_FILE_CONTAINER, .fd = -1},
        {.kind = SPAPR_IOMMU_FILE_CONTAINER, .fd = fd, .reserved = 1},
        {.kind = SPAPR_IOMMU_FILE_DEVICE, .fd = fd},
        {.kind = SPAPR_IOMMU_FILE_DEVICE, .fd = fd, .address = "nvme0"},
    };
    const char *codes[] = {"file-kind", "file", "reserved", "null", "no-pci-address"};

    TRUE(fd >= 0);
    for (int i = 0; i < 5; i++) {
        host = (spapr_iommu_host *)&fd;
        REFUSED(spapr_iommu_host_kernel_files(&wrong[i], 1, &host), SPAPR_IOMMU_ARGUMENT, codes[i]);
        TRUE(host == NULL);
    }
    REFUSED(spapr_iommu_host_kernel_files(files, 5, &host), SPAPR_IOMMU_ARGUMENT, "twice");
    GOOD(spapr_iommu_host_kernel_files(files, 4, &host));
    /* The library has its own. */
    close(fd);
    GOOD(spapr_iommu_registry_new(host, &registry));
    GOOD(spapr_iommu_space_new(registry, &space));
    /* This is no container, which the kernel alone can tell. */
    for (int i = 0; i < 2; i++) {
        TRUE(spapr_iommu_space_attach(space, 7) == SPAPR_IOMMU_KERNEL);
        TRUE(strstr(spapr_iommu_error_message(), "VFIO_GET_API_VERSION"));
    }
    spapr_iommu_space_free(space);
    spapr_iommu_registry_free(registry);
    spapr_iommu_host_free(host);
}

static void interrupts_come_by_eventfd(void)
{
    struct machine m = machine("powernv9-64k");
    spapr_iommu_device *device;
    spapr_iommu_bar *bar;
    spapr_iommu_interrupts *interrupts;
    int fd = eventfd(0, EFD_NONBLOCK), wrong = -1;
    uint64_t fired;
    uint32_t count;

    GOOD(spapr_iommu_device_open(m.space, 0, "0000:00:00.0", &device));
    GOOD(spapr_iommu_bar_open(device, 0, SPAPR_IOMMU_BIG_ENDIAN, &bar));
    GOOD(spapr_iommu_device_interrupts(device, SPAPR_IOMMU_MSI, &count));
    TRUE(count == 1);
    REFUSED(spapr_iommu_device_interrupts(device, 9, &count), SPAPR_IOMMU_ARGUMENT, "interrupt-kind");
    REFUSED(spapr_iommu_interrupts_enable(device, SPAPR_IOMMU_MSI, &wrong, 1, &interrupts), SPAPR_IOMMU_ARGUMENT,
            "file");
    REFUSED(spapr_iommu_interrupts_enable(device, SPAPR_IOMMU_MSI, NULL, 0, &interrupts), SPAPR_IOMMU_ARGUMENT,
            "vectors");
    TRUE(interrupts == NULL);
    GOOD(spapr_iommu_interrupts_enable(device, SPAPR_IOMMU_MSI, &fd, 1, &interrupts));
    REFUSED(spapr_iommu_interrupts_rearm_by(interrupts, -1), SPAPR_IOMMU_ARGUMENT, "file");
    GOOD(spapr_iommu_device_start_dma(device));
    TRUE(read(fd, &fired, sizeof fired) == -1);
    /* edu raises an interrupt. */
    GOOD(spapr_iommu_bar_write(bar, 0x60, 4, 1));
    TRUE(read(fd, &fired, sizeof fired) == sizeof fired && fired == 1);
    GOOD(spapr_iommu_interrupts_rearm(interrupts));
    spapr_iommu_interrupts_free(interrupts);
    spapr_iommu_bar_free(bar);
    spapr_iommu_device_free(device);
    close(fd);
    end(&m);
}

static void a_guest_gets_answers(void)
{
    struct machine m = machine("powernv9-64k");
    spapr_iommu_guest *guest;
    spapr_iommu_phb *phb, *same;
    spapr_iommu_space *space;
    spapr_iommu_phb_config config = {.struct_size = sizeof config, .buid = 1, .liobn = LIOBN};
    spapr_iommu_ddw_tokens tokens = {1, 2, 3, 4};
    spapr_iommu_guest_translation there;
    uint64_t args[9] = {LIOBN, 0, 3}, tce;
    uint32_t cells[3] = {0, 0, 1}, rets[6];
    int64_t result = 77;
    uint8_t byte = 5;
    size_t size;

    REFUSED(spapr_iommu_guest_new_kvm(m.registry, -1, -1, &guest), SPAPR_IOMMU_ARGUMENT, "file");
    TRUE(guest == NULL);
    TRUE(spapr_iommu_guest_new_kvm(m.registry, 0, -1, &guest) < 0);
    GOOD(spapr_iommu_guest_new(m.registry, &guest));
    GOOD(spapr_iommu_guest_add_memory(guest, 0, m.memory));
    REFUSED(spapr_iommu_guest_add_memory(guest, 65536, m.memory), SPAPR_IOMMU_BUSY, "overlaps");
    REFUSED(spapr_iommu_guest_add_phb(guest, &(spapr_iommu_phb_config){0}, &phb), SPAPR_IOMMU_ARGUMENT,
            "struct-size");
    GOOD(spapr_iommu_guest_add_phb(guest, &config, &phb));
    REFUSED(spapr_iommu_guest_add_phb(guest, &config, NULL), SPAPR_IOMMU_BUSY, "buid-taken");
    GOOD(spapr_iommu_guest_phb(guest, 1, &same));
    spapr_iommu_phb_free(same);
    REFUSED(spapr_iommu_guest_phb(guest, 2, &same), SPAPR_IOMMU_NOT_FOUND, "no-phb");

    TRUE(spapr_iommu_guest_hcall(guest, 0x1234, args, &result) == SPAPR_IOMMU_NOT_HANDLED && result == 77);
    GOOD(spapr_iommu_guest_hcall(guest, SPAPR_IOMMU_H_PUT_TCE, args, &result));
    TRUE(result == SPAPR_IOMMU_H_SUCCESS);
    args[0] = UINT64_MAX;
    GOOD(spapr_iommu_guest_hcall(guest, SPAPR_IOMMU_H_PUT_TCE, args, &result));
    TRUE(result == SPAPR_IOMMU_H_PARAMETER);
    GOOD(spapr_iommu_guest_get_tce(guest, LIOBN, 0, &tce, &result));
    TRUE(tce == 3 && result == SPAPR_IOMMU_H_SUCCESS);
    REFUSED(spapr_iommu_guest_get_tce(guest, 7, 0, &tce, &result), SPAPR_IOMMU_NOT_FOUND, "no-table");
    TRUE(tce == 0 && result == SPAPR_IOMMU_H_PARAMETER);
    REFUSED(spapr_iommu_guest_put_tce_indirect(guest, LIOBN, 0, 0, 513, &result), SPAPR_IOMMU_ARGUMENT, "too-many");
    GOOD(spapr_iommu_phb_translate(phb, 9, &there));
    TRUE(there.address == 9 && there.page_shift == 12 && there.permission == 3);
    REFUSED(spapr_iommu_guest_translate(guest, LIOBN, 4096, &there), SPAPR_IOMMU_NOT_FOUND, "not-mapped");
    GOOD(spapr_iommu_phb_write(phb, 9, &byte, 1));
    byte = 0;
    GOOD(spapr_iommu_phb_read(phb, 9, &byte, 1));
    TRUE(byte == 5 && ((volatile uint8_t *)m.start)[9] == 5);
    REFUSED(spapr_iommu_phb_read(phb, 4096, &byte, 1), SPAPR_IOMMU_NOT_FOUND, "not-mapped");

    TRUE(spapr_iommu_guest_rtas(guest, &tokens, 9, cells, 3, rets, 5) == SPAPR_IOMMU_NOT_HANDLED);
    TRUE(spapr_iommu_guest_h_rtas(guest, &tokens, 0, &result) == SPAPR_IOMMU_NOT_HANDLED);
    GOOD(spapr_iommu_guest_h_rtas(guest, &tokens, UINT64_MAX, &result));
    TRUE(result == SPAPR_IOMMU_H_PARAMETER);
    GOOD(spapr_iommu_guest_rtas(guest, &tokens, tokens.query, cells, 3, rets, 5));
    GOOD(spapr_iommu_guest_rtas(guest, &tokens, tokens.query, cells, 3, rets, 6));
    TRUE(rets[0] == 0 && rets[1] == 1);
    REFUSED(spapr_iommu_guest_rtas(guest, &tokens, tokens.query, cells, 2, rets, 5), SPAPR_IOMMU_ARGUMENT, "cells");
    TRUE((int32_t)rets[0] == -3);
    spapr_iommu_property properties[5];
    GOOD(spapr_iommu_phb_properties(phb, &tokens, properties, 5, &size));
    TRUE(size == 5 && !strcmp(properties[2].name, "ibm,dma-window") && properties[2].value[0] == 0x80);

    GOOD(spapr_iommu_guest_save(guest, NULL, 0, &size));
    uint8_t *saved = malloc(size);
    GOOD(spapr_iommu_guest_save(guest, saved, size, &size));
    GOOD(spapr_iommu_guest_stuff_tce(guest, LIOBN, 0, 0, 1, NULL));
    GOOD(spapr_iommu_guest_restore(guest, saved, size));
    GOOD(spapr_iommu_guest_translate(guest, LIOBN, 0, &there));
    REFUSED(spapr_iommu_guest_restore(guest, saved, size - 1), SPAPR_IOMMU_ARGUMENT, "not-saved");
    free(saved);

    GOOD(spapr_iommu_phb_attach(phb, 1));
    GOOD(spapr_iommu_phb_space(phb, &space));
    spapr_iommu_space_free(space);
    REFUSED(spapr_iommu_guest_remove_phb(guest, 1), SPAPR_IOMMU_BUSY, "in-use");
    REFUSED(spapr_iommu_guest_remove_memory(guest, 0, MIB), SPAPR_IOMMU_BUSY, "mapped");
    GOOD(spapr_iommu_guest_keep_memory(guest, 0, MIB));
    GOOD(spapr_iommu_phb_detach(phb, 1));
    GOOD(spapr_iommu_guest_reset(guest));
    GOOD(spapr_iommu_guest_remove_memory(guest, 0, MIB));
    GOOD(spapr_iommu_guest_remove_phb(guest, 1));
    spapr_iommu_guest_free(guest);
    REFUSED(spapr_iommu_phb_attach(phb, 1), SPAPR_IOMMU_NOT_FOUND, "removed");
    spapr_iommu_phb_free(phb);
    end(&m);
}

/* A slot of memory of this thread, mapped and unmapped over and over. */
struct share {
    const struct machine *machine;
    uint64_t iova;
};

static void *map_and_unmap(void *of)
{
    const struct share *share = of;
    spapr_iommu_translation there;

    TRUE(spapr_iommu_error_status() == SPAPR_IOMMU_OK && !*spapr_iommu_error_code());
    for (int i = 0; i < 50; i++) {
        GOOD(spapr_iommu_space_map(share->machine->space, range(share->iova, 65536), share->machine->start, 3));
        GOOD(spapr_iommu_space_translate(share->machine->space, share->iova, &there));
        GOOD(spapr_iommu_space_unmap(share->machine->space, range(share->iova, 65536), NULL));
    }
    REFUSED(spapr_iommu_space_translate(share->machine->space, share->iova, &there), SPAPR_IOMMU_NOT_FOUND,
            "not-mapped");
    return NULL;
}

static void threads_share_handles_and_no_errors(void)
{
    struct machine m = machine("powernv9-64k");
    struct share shares[4];
    pthread_t threads[4];

    REFUSED(spapr_iommu_space_attach(m.space, 9), SPAPR_IOMMU_SETUP, "no-group");
    for (int i = 0; i < 4; i++) {
        shares[i] = (struct share){.machine = &m, .iova = i * MIB};
        TRUE(pthread_create(&threads[i], NULL, map_and_unmap, &shares[i]) == 0);
    }
    for (int i = 0; i < 4; i++)
        TRUE(pthread_join(threads[i], NULL) == 0);
    TRUE(!strcmp(spapr_iommu_error_code(), "no-group"));
    end(&m);
}

static void a_child_leaves_everything_to_its_parent(void)
{
    struct machine m = machine("powernv9-64k");
    spapr_iommu_translation there;
    int status;

    GOOD(spapr_iommu_space_map(m.space, range(0, MIB), m.start, SPAPR_IOMMU_READ));
    pid_t child = fork();
    TRUE(child >= 0);
    if (child == 0) {
        end(&m);
        _exit(0);
    }
    TRUE(waitpid(child, &status, 0) == child && status == 0);
    GOOD(spapr_iommu_space_translate(m.space, 0, &there));
    GOOD(spapr_iommu_space_unmap(m.space, range(0, MIB), NULL));
    end(&m);
}

int main(void)
{
    TRUE(spapr_iommu_abi() == SPAPR_IOMMU_ABI);
    null_is_an_error();
    wrong_arguments_are_errors();
    a_space_maps_and_a_lease_stays();
    handles_may_be_freed_in_any_order();
    memory_of_the_caller_is_lent();
    files_of_vfio_are_handed_in();
    interrupts_come_by_eventfd();
    a_guest_gets_answers();
    threads_share_handles_and_no_errors();
    a_child_leaves_everything_to_its_parent();
    printf("the promises are kept\n");
    return 0;
}
