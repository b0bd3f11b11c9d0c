/*
 * A VMM in miniature: gives a guest RAM, TCE tables and a device of the host, answers the guest's
 * hypercalls and RTAS calls, and checks what the device sees. The guest's part is played by the
 * functions guest_*, which make the calls of a driver in Linux.
 *
 *     monitor powernv9-64k     on a model of that machine
 *     monitor                  on the running kernel, with an `edu` bound to vfio-pci
 *
 * docs/c.md goes through it.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "spapr_iommu.h"

enum { PAGE = 4096, LARGE_PAGE = 65536, RAM = 16 << 20, LIST = 0x10000, BLOCK = 0x20000, FROM = 0x30000, TO = 0x40000 };
static const uint64_t BUID = 0x800000020000000;
static const uint32_t LIOBN = 0x80000000;
static const spapr_iommu_ddw_tokens TOKENS = {.query = 100, .create = 101, .remove = 102, .reset = 103};

/* The guest's RAM, which the device writes to. */
static volatile uint8_t *ram;
static spapr_iommu_guest *guest;

static void must(spapr_iommu_status status, const char *what)
{
    if (status == SPAPR_IOMMU_OK)
        return;
    fprintf(stderr, "monitor: %s: %s (%s)\n", what, spapr_iommu_error_message(), spapr_iommu_error_code());
    exit(1);
}

static void check(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "monitor: wrong: %s\n", what);
        exit(1);
    }
}

/* The exit of a vCPU by `sc 1`: KVM_EXIT_PAPR_HCALL has number and r4 to r12. */
static int64_t papr_hcall(uint64_t number, uint64_t args[9])
{
    int64_t result;
    spapr_iommu_status status;

    if (number == SPAPR_IOMMU_H_RTAS)
        status = spapr_iommu_guest_h_rtas(guest, &TOKENS, args[0], &result);
    else
        status = spapr_iommu_guest_hcall(guest, number, args, &result);
    /* A VMM answers all other calls here. */
    check(status == SPAPR_IOMMU_OK, "a call of the guest was not handled");
    return result;
}

static int64_t guest_hcall(uint64_t number, uint64_t liobn, uint64_t ioba, uint64_t third, uint64_t fourth)
{
    uint64_t args[9] = {liobn, ioba, third, fourth};

    return papr_hcall(number, args);
}

static void guest_store(uint64_t at, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ram[at + i] = ((const uint8_t *)bytes)[i];
}

/* Calls RTAS by an argument block in RAM, of big-endian cells, and returns the status. */
static int32_t guest_rtas(uint32_t token, uint32_t arg_count, const uint32_t *args, uint32_t ret_count,
                          uint32_t *rets)
{
    uint32_t head[3] = {htobe32(token), htobe32(arg_count), htobe32(ret_count)};

    guest_store(BLOCK, head, sizeof head);
    for (uint32_t i = 0; i < arg_count; i++) {
        uint32_t cell = htobe32(args[i]);
        guest_store(BLOCK + 12 + 4 * i, &cell, 4);
    }
    check(guest_hcall(SPAPR_IOMMU_H_RTAS, BLOCK, 0, 0, 0) == SPAPR_IOMMU_H_SUCCESS, "H_RTAS");
    for (uint32_t i = 0; i < ret_count; i++) {
        const volatile uint8_t *cell = ram + BLOCK + 12 + 4 * (arg_count + i);
        rets[i] = (uint32_t)cell[0] << 24 | (uint32_t)cell[1] << 16 | (uint32_t)cell[2] << 8 | cell[3];
    }
    return (int32_t)rets[0];
}

/* Maps all RAM in a window of 64 KiB pages by one list of TCEs. */
static void guest_map_all(uint64_t liobn, uint64_t start)
{
    enum { COUNT = RAM / LARGE_PAGE };

    for (uint64_t i = 0; i < COUNT; i++) {
        uint64_t tce = htobe64(i * LARGE_PAGE | SPAPR_IOMMU_READ | SPAPR_IOMMU_WRITE);
        guest_store(LIST + 8 * i, &tce, 8);
    }
    check(guest_hcall(SPAPR_IOMMU_H_PUT_TCE_INDIRECT, liobn, start, LIST, COUNT) == SPAPR_IOMMU_H_SUCCESS,
          "H_PUT_TCE_INDIRECT");
}

/* Registers of `edu` (QEMU, docs/specs/edu.rst), which has the byte order of the machine. */
static void edu_transfer(const spapr_iommu_bar *bar, uint64_t source, uint64_t destination, uint64_t command)
{
    struct timespec pause = {.tv_nsec = 1000000};
    uint64_t busy = 1;

    must(spapr_iommu_bar_write(bar, 0x80, 8, source), "write a register");
    must(spapr_iommu_bar_write(bar, 0x88, 8, destination), "write a register");
    must(spapr_iommu_bar_write(bar, 0x90, 8, PAGE), "write a register");
    must(spapr_iommu_bar_write(bar, 0x98, 8, command), "write a register");
    for (int i = 0; i < 20000 && busy; i++) {
        must(spapr_iommu_bar_read(bar, 0x98, 8, &busy), "read a register");
        busy &= 1;
        if (busy)
            nanosleep(&pause, NULL);
    }
    check(!busy, "a transfer did not end");
}

/* Finds an `edu` that VFIO has. */
static spapr_iommu_device_facts find_edu(const spapr_iommu_host *host)
{
    spapr_iommu_device_facts facts[64];
    size_t count;

    must(spapr_iommu_host_devices(host, facts, 64, &count), "list the devices");
    for (size_t i = 0; i < count && i < 64; i++)
        if (facts[i].vendor == 0x1234 && facts[i].device == 0x11e8 && !strcmp(facts[i].driver, "vfio-pci"))
            return facts[i];
    check(0, "no edu (1234:11e8) is bound to vfio-pci");
    return facts[0];
}

int main(int argc, char **argv)
{
    spapr_iommu_host *host;
    spapr_iommu_memory *memory;
    spapr_iommu_registry *registry;
    spapr_iommu_phb *phb;
    spapr_iommu_space *space;
    spapr_iommu_device *device;
    spapr_iommu_bar *bar;

    check(spapr_iommu_abi() == SPAPR_IOMMU_ABI, "the library has another version than the header");
    if (argc > 1)
        must(spapr_iommu_host_model(argv[1], &host), "make a model");
    else
        must(spapr_iommu_host_kernel(&host), "open the kernel");

    /* RAM of the guest, mapped by the VMM itself. */
    void *start = mmap(NULL, 2 * RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(start != MAP_FAILED, "mmap");
    /* Whole pages of any host, 64 KiB and more. */
    ram = (uint8_t *)(((uintptr_t)start + RAM - 1) & ~(uintptr_t)(RAM - 1));
    must(spapr_iommu_memory_borrow(host, (void *)ram, RAM, &memory), "lend RAM");

    /* The IOMMU of the guest, with a PHB. */
    must(spapr_iommu_registry_new(host, &registry), "make the registry");
    must(spapr_iommu_guest_new(registry, &guest), "make the guest's IOMMU");
    must(spapr_iommu_guest_add_memory(guest, 0, memory), "add RAM");
    spapr_iommu_phb_config config = {.struct_size = sizeof config, .buid = BUID, .liobn = LIOBN};
    must(spapr_iommu_guest_add_phb(guest, &config, &phb), "add a PHB");

    /* For the device tree. */
    spapr_iommu_property properties[8];
    size_t count;
    must(spapr_iommu_phb_properties(phb, &TOKENS, properties, 8, &count), "make the properties");
    for (size_t i = 0; i < count; i++)
        printf("property %s: %u bytes\n", properties[i].name, properties[i].size);

    /* A device of the host. */
    spapr_iommu_device_facts facts = find_edu(host);
    must(spapr_iommu_phb_attach(phb, facts.group), "attach the group");
    must(spapr_iommu_phb_space(phb, &space), "get the address space");
    must(spapr_iommu_device_open(space, facts.group, facts.address, &device), "open the device");
    must(spapr_iommu_bar_open(device, 0, SPAPR_IOMMU_BIG_ENDIAN, &bar), "open BAR 0");
    must(spapr_iommu_device_start_dma(device), "start DMA");

    /* The guest asks for a window of all its RAM and more. */
    uint32_t query[3] = {0, BUID >> 32, (uint32_t)BUID}, rets[6];
    check(guest_rtas(TOKENS.query, 3, query, 5, rets) == 0, "ibm,query-pe-dma-window with 5 results");
    check(guest_rtas(TOKENS.query, 3, query, 6, rets) == 0, "ibm,query-pe-dma-window with 6 results");
    printf("windows on offer: %u\n", rets[1]);
    check(rets[4] & 2, "pages of 64 KiB are not on offer");
    uint32_t create[5] = {0, BUID >> 32, (uint32_t)BUID, 16, 30};
    check(guest_rtas(TOKENS.create, 5, create, 4, rets) == 0, "ibm,create-pe-dma-window");
    uint32_t dynamic = rets[1];
    uint64_t window = (uint64_t)rets[2] << 32 | rets[3];
    printf("dynamic window: LIOBN %#x\n", dynamic);

    /* It maps one page in the default window, and all of RAM in the dynamic one. */
    check(guest_hcall(SPAPR_IOMMU_H_PUT_TCE, LIOBN, PAGE, FROM | SPAPR_IOMMU_READ, 0) == SPAPR_IOMMU_H_SUCCESS,
          "H_PUT_TCE");
    guest_map_all(dynamic, window);
    spapr_iommu_mapping maps[4];
    must(spapr_iommu_space_mappings(space, (spapr_iommu_range){.start = window, .size = RAM}, maps, 4, &count),
         "list the mappings");
    printf("the dynamic window has %zu mapping of %llu MiB\n", count, (unsigned long long)maps[0].iova.size >> 20);

    /* The device copies a page: it reads it by one window and writes it by the other. */
    for (int i = 0; i < PAGE; i++) {
        ram[FROM + i] = (uint8_t)(i * 7 + 1);
        ram[TO + i] = 0;
    }
    edu_transfer(bar, PAGE, 0x40000, 1);
    edu_transfer(bar, 0x40000, window + TO, 3);
    int same = 1;
    for (int i = 0; i < PAGE; i++)
        same &= ram[TO + i] == (uint8_t)(i * 7 + 1);
    check(same, "the device did not copy the page");
    printf("the device copied a page\n");

    /* A device that the VMM emulates sees the same, by copies. */
    uint8_t seen[16];
    must(spapr_iommu_phb_read(phb, window + TO, seen, sizeof seen), "read as a device");
    check(seen[1] == 8, "what an emulated device reads");

    /* Mistakes of the guest are answers for the guest, and an error for the VMM to log. */
    int64_t result;
    check(guest_hcall(SPAPR_IOMMU_H_PUT_TCE, LIOBN, 0, RAM | SPAPR_IOMMU_WRITE, 0) == SPAPR_IOMMU_H_PARAMETER,
          "a TCE past the end of RAM");
    check(spapr_iommu_guest_put_tce(guest, LIOBN, 0, RAM | SPAPR_IOMMU_WRITE, &result) == SPAPR_IOMMU_ARGUMENT &&
              result == SPAPR_IOMMU_H_PARAMETER,
          "the error of such a TCE");
    printf("refused: %s\n", spapr_iommu_error_message());

    /* RAM cannot go while TCEs lead to it. */
    check(spapr_iommu_guest_remove_memory(guest, 0, RAM) == SPAPR_IOMMU_BUSY, "RAM that is mapped was removed");
    printf("busy: %s\n", spapr_iommu_error_code());
    must(spapr_iommu_guest_keep_memory(guest, 0, RAM), "keep RAM");

    /* The state for migration, and a guest that gets it. */
    size_t size;
    must(spapr_iommu_guest_save(guest, NULL, 0, &size), "save");
    uint8_t *saved = malloc(size);
    check(saved != NULL, "malloc");
    must(spapr_iommu_guest_save(guest, saved, size, &size), "save");
    spapr_iommu_guest *arrived;
    spapr_iommu_guest_translation there;
    must(spapr_iommu_guest_new(registry, &arrived), "make a second guest");
    must(spapr_iommu_guest_add_memory(arrived, 0, memory), "add its RAM");
    must(spapr_iommu_guest_add_phb(arrived, &config, NULL), "add its PHB");
    must(spapr_iommu_guest_restore(arrived, saved, size), "restore");
    must(spapr_iommu_guest_translate(arrived, dynamic, window + TO + 5, &there), "translate");
    check(there.address == TO + 5, "where the restored guest's TCE leads");
    spapr_iommu_guest_free(arrived);
    free(saved);
    printf("saved and restored\n");

    /* The guest unmaps, and everything ends. */
    check(guest_hcall(SPAPR_IOMMU_H_STUFF_TCE, LIOBN, PAGE, 0, 1) == SPAPR_IOMMU_H_SUCCESS, "H_STUFF_TCE");
    check(guest_rtas(TOKENS.remove, 1, &dynamic, 1, rets) == 0, "ibm,remove-pe-dma-window");
    spapr_iommu_bar_free(bar);
    spapr_iommu_device_free(device);
    spapr_iommu_space_free(space);
    must(spapr_iommu_phb_detach(phb, facts.group), "detach the group");
    spapr_iommu_phb_free(phb);
    must(spapr_iommu_guest_remove_memory(guest, 0, RAM), "remove RAM");
    spapr_iommu_guest_free(guest);
    must(spapr_iommu_registry_regions(registry, NULL, 0, &count), "list the regions");
    check(count == 0, "memory stays registered");
    spapr_iommu_registry_free(registry);
    spapr_iommu_memory_free(memory);
    spapr_iommu_host_free(host);
    check(munmap(start, 2 * RAM) == 0, "munmap");
    printf("nothing stays registered\n");
    check(fflush(stdout) == 0, "standard output cannot be written");
    return 0;
}
