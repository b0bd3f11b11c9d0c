/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * spapr-iommu: DMA memory for VFIO devices on POWER, and the IOMMU of pseries guests.
 *
 * docs/c.md is the guide. This file is made of the library's sources; do not edit it.
 *
 * Results
 *   A function that can fail returns a spapr_iommu_status: SPAPR_IOMMU_OK (0), or a negative number
 *   that says what the caller can do. spapr_iommu_error_code() and spapr_iommu_error_message() tell
 *   more about the last failure of the calling thread. After a failure nothing has changed, except
 *   where the message says so, and a handle that was to be returned is NULL.
 *
 *   A pointer that is NULL where the text does not allow it is an error (SPAPR_IOMMU_ARGUMENT,
 *   "null"), and so is any other wrong argument. No fault of the library unwinds into the caller:
 *   it returns SPAPR_IOMMU_INTERNAL.
 *
 * Ownership
 *   spapr_iommu_X_new, _open and the like return a handle, which the caller frees with
 *   spapr_iommu_X_free, once, in any order: what was made of a handle keeps what it needs. Freeing
 *   NULL does nothing. spapr_iommu_lease_release frees its lease if it succeeds.
 *
 *   Structures, strings and arrays that are passed in are copied; nothing is kept. Strings that are
 *   returned belong to the library.
 *
 *   Pointers that are not NULL must be valid: a handle that was not freed, an array of as many
 *   elements as are named, a string that ends with a 0. No two results of a call may overlap, and
 *   none may overlap an argument.
 *
 * Devices and memory
 *   Devices write to memory at any moment, whatever C knows of it. What an address space may map is
 *   memory of spapr_iommu_memory_allocate, _file or _borrow, and only while it has a lease or is a
 *   guest's RAM. Access it as volatile or atomic.
 *
 * Threads
 *   Every function may be called by any thread, and several at once with the same handle, if they
 *   take it as const. A handle that is freed or released must not be in use by another thread. The
 *   last error is that of the calling thread.
 *
 *   A child of fork() may free its copies, which closes files and leaves everything else to the
 *   parent. It must call nothing else.
 *
 * Versions
 *   spapr_iommu_abi() of the library must be SPAPR_IOMMU_ABI of the header. Structures that callers
 *   fill begin with struct_size, or end with reserved fields, which are 0: zero such a structure,
 *   then set what you need.
 */

#ifndef SPAPR_IOMMU_H
#define SPAPR_IOMMU_H

#include <stddef.h>
#include <stdint.h>

/**
 * Version of this interface. It grows with each change that programs compiled before cannot use;
 * functions, and fields at the end of structures, are added without one.
 */
#define SPAPR_IOMMU_ABI 1

/**
 * Done.
 */
#define SPAPR_IOMMU_OK 0

/**
 * Not a call for this library: the VMM answers it. No error is recorded.
 */
#define SPAPR_IOMMU_NOT_HANDLED 1

/**
 * The request itself is wrong: misaligned, out of range, contradictory, or a pointer is NULL.
 */
#define SPAPR_IOMMU_ARGUMENT -1

/**
 * The request names something that is not there. Create it first.
 */
#define SPAPR_IOMMU_NOT_FOUND -2

/**
 * Something is in the way: a mapping, an open device, another owner. Remove it first.
 */
#define SPAPR_IOMMU_BUSY -3

/**
 * The process may not lock so much memory (RLIMIT_MEMLOCK). The message has the numbers.
 */
#define SPAPR_IOMMU_MEMLOCK -4

/**
 * Memory, bus addresses or a budget are exhausted. Free some.
 */
#define SPAPR_IOMMU_NO_MEMORY -5

/**
 * Kernel, firmware or hardware cannot do it.
 */
#define SPAPR_IOMMU_UNSUPPORTED -6

/**
 * The machine is not set up. The message has the command that mends it.
 */
#define SPAPR_IOMMU_SETUP -7

/**
 * The kernel refused a call that looked right.
 */
#define SPAPR_IOMMU_KERNEL -8

/**
 * The device does not answer, or its PE is frozen.
 */
#define SPAPR_IOMMU_DEVICE -9

/**
 * The kernel refused a change and refused to undo it. The message lists what is lost.
 */
#define SPAPR_IOMMU_INCONSISTENT -10

/**
 * A fault of this library. Free what is left and report it.
 */
#define SPAPR_IOMMU_INTERNAL -11

/**
 * Kind of a file: /dev/vfio/vfio.
 */
#define SPAPR_IOMMU_FILE_CONTAINER 0

/**
 * Kind of a file: /dev/vfio/N.
 */
#define SPAPR_IOMMU_FILE_GROUP 1

/**
 * Kind of a file: what VFIO_GROUP_GET_DEVICE_FD returned.
 */
#define SPAPR_IOMMU_FILE_DEVICE 2

/**
 * Origin of a window: the platform's default window.
 */
#define SPAPR_IOMMU_ORIGIN_DEFAULT 0

/**
 * Origin of a window: the caller requested it.
 */
#define SPAPR_IOMMU_ORIGIN_REQUESTED 1

/**
 * Origin of a window: something was mapped there; it goes when nothing is left in it.
 */
#define SPAPR_IOMMU_ORIGIN_DEMAND 2

/**
 * `start` of a plan if the firmware chooses where the window starts.
 */
#define SPAPR_IOMMU_FIRMWARE_CHOOSES 18446744073709551615ull

/**
 * State of the default window: the kernel creates it with the next call that needs a window.
 */
#define SPAPR_IOMMU_DEFAULT_PENDING 0

/**
 * State of the default window: it exists.
 */
#define SPAPR_IOMMU_DEFAULT_LIVE 1

/**
 * State of the default window: it was removed, or no group is attached.
 */
#define SPAPR_IOMMU_DEFAULT_GONE 2

/**
 * Devices may read.
 */
#define SPAPR_IOMMU_READ 1

/**
 * Devices may write.
 */
#define SPAPR_IOMMU_WRITE 2

/**
 * Flag of spapr_iommu_space_map_all: earlier mappings in the way are replaced, not an error.
 */
#define SPAPR_IOMMU_REPLACE 1

/**
 * Registers with the low byte first, as nearly all PCI devices have them.
 */
#define SPAPR_IOMMU_LITTLE_ENDIAN 0

/**
 * Registers with the high byte first.
 */
#define SPAPR_IOMMU_BIG_ENDIAN 1

/**
 * Kind of interrupts: the pin.
 */
#define SPAPR_IOMMU_INTX 0

/**
 * Kind of interrupts: messages.
 */
#define SPAPR_IOMMU_MSI 1

/**
 * Kind of interrupts: messages of MSI-X.
 */
#define SPAPR_IOMMU_MSIX 2

/**
 * Hypercall H_GET_TCE.
 */
#define SPAPR_IOMMU_H_GET_TCE 28

/**
 * Hypercall H_PUT_TCE.
 */
#define SPAPR_IOMMU_H_PUT_TCE 32

/**
 * Hypercall H_STUFF_TCE.
 */
#define SPAPR_IOMMU_H_STUFF_TCE 312

/**
 * Hypercall H_PUT_TCE_INDIRECT.
 */
#define SPAPR_IOMMU_H_PUT_TCE_INDIRECT 316

/**
 * QEMU's private hypercall for RTAS.
 */
#define SPAPR_IOMMU_H_RTAS 61440

/**
 * Answer to a hypercall: done.
 */
#define SPAPR_IOMMU_H_SUCCESS 0

/**
 * Answer to a hypercall: the host failed.
 */
#define SPAPR_IOMMU_H_HARDWARE -1

/**
 * Answer to a hypercall: a parameter is wrong.
 */
#define SPAPR_IOMMU_H_PARAMETER -4

/**
 * Answer to a hypercall: the table would take too much memory.
 */
#define SPAPR_IOMMU_H_NOT_ENOUGH_RESOURCES -44

/**
 * A BAR of a device, which it keeps open.
 */
typedef struct spapr_iommu_bar spapr_iommu_bar;

/**
 * An open device. It keeps its address space.
 */
typedef struct spapr_iommu_device spapr_iommu_device;

/**
 * The IOMMU of a pseries guest.
 */
typedef struct spapr_iommu_guest spapr_iommu_guest;

/**
 * A kernel: the running one, or a model in this process. What is made on it keeps it.
 */
typedef struct spapr_iommu_host spapr_iommu_host;

/**
 * The enabled interrupts of one kind. They keep the device's file open.
 */
typedef struct spapr_iommu_interrupts spapr_iommu_interrupts;

/**
 * Keeps memory registered.
 */
typedef struct spapr_iommu_lease spapr_iommu_lease;

/**
 * Memory that devices may be given. Leases and guests keep it, so the handle may be freed at any
 * time.
 */
typedef struct spapr_iommu_memory spapr_iommu_memory;

/**
 * A handle of a PHB, which its guest has.
 */
typedef struct spapr_iommu_phb spapr_iommu_phb;

/**
 * The memory registry of a process. Create one and share it: two would compete for the kernel's
 * regions.
 */
typedef struct spapr_iommu_registry spapr_iommu_registry;

/**
 * What the devices of one or more groups see.
 */
typedef struct spapr_iommu_space spapr_iommu_space;

/**
 * Result of a call: SPAPR_IOMMU_OK, SPAPR_IOMMU_NOT_HANDLED, or one of the errors, which are
 * negative.
 */
typedef int32_t spapr_iommu_status;

/**
 * A file of VFIO that another process opened.
 */
typedef struct spapr_iommu_file {
    /**
     * SPAPR_IOMMU_FILE_CONTAINER, SPAPR_IOMMU_FILE_GROUP or SPAPR_IOMMU_FILE_DEVICE.
     */
    uint32_t kind;
    /**
     * The open file, of which the library keeps a duplicate.
     */
    int32_t fd;
    /**
     * Of a group: N of /dev/vfio/N. Otherwise 0.
     */
    uint32_t group;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * Of a device: its PCI address. Otherwise NULL.
     */
    const char *address;
} spapr_iommu_file;

/**
 * A device that a host offers for VFIO.
 */
typedef struct spapr_iommu_device_facts {
    /**
     * Its IOMMU group: N of /dev/vfio/N.
     */
    uint32_t group;
    /**
     * PCI vendor ID.
     */
    uint16_t vendor;
    /**
     * PCI device ID.
     */
    uint16_t device;
    /**
     * PCI address, such as 0000:01:00.0.
     */
    char address[32];
    /**
     * The driver it is bound to; empty if there is none.
     */
    char driver[32];
    /**
     * 0.
     */
    uint64_t reserved[4];
} spapr_iommu_device_facts;

/**
 * A region that the kernel has registered.
 */
typedef struct spapr_iommu_region {
    /**
     * First user address.
     */
    uint64_t address;
    /**
     * Bytes.
     */
    uint64_t size;
    /**
     * Bytes of bus addresses that point into it.
     */
    uint64_t mapped;
    /**
     * Largest IOMMU page it can serve, as a power of two.
     */
    uint32_t max_page_shift;
    /**
     * Largest number of leases on any part of it.
     */
    uint32_t leases;
    /**
     * Number of containers it is registered in.
     */
    uint32_t containers;
    /**
     * 0.
     */
    uint32_t reserved[5];
} spapr_iommu_region;

/**
 * A range of bus addresses.
 */
typedef struct spapr_iommu_range {
    /**
     * First bus address.
     */
    uint64_t start;
    /**
     * Bytes.
     */
    uint64_t size;
} spapr_iommu_range;

/**
 * A request for a DMA window: of `bytes` wherever it starts, or one that holds `cover`. Fields
 * that are 0 leave the choice to the library.
 */
typedef struct spapr_iommu_window_request {
    /**
     * sizeof (spapr_iommu_window_request).
     */
    uint32_t struct_size;
    /**
     * Exactly this IOMMU page, as a power of two; 0 for the largest that fits.
     */
    uint32_t page_shift;
    /**
     * At least so many bytes; 0 with `cover`.
     */
    uint64_t bytes;
    /**
     * Bus addresses it must hold; size 0 with `bytes`.
     */
    struct spapr_iommu_range cover;
    /**
     * Last bus address that the device can address; 0 for 64 bits.
     */
    uint64_t reach;
    /**
     * At least so many TCEs.
     */
    uint64_t entries;
    /**
     * Largest IOMMU page that the memory can serve, as a power of two; 0 for the host's page.
     */
    uint32_t max_page_shift;
    /**
     * 0.
     */
    uint32_t reserved;
} spapr_iommu_window_request;

/**
 * What a request for a window leads to, and costs. Nothing is created.
 */
typedef struct spapr_iommu_window_plan {
    /**
     * Start of the window; SPAPR_IOMMU_FIRMWARE_CHOOSES if the firmware chooses it.
     */
    uint64_t start;
    /**
     * Bytes.
     */
    uint64_t size;
    /**
     * Its IOMMU page, as a power of two.
     */
    uint32_t page_shift;
    /**
     * Levels of its TCE table.
     */
    uint32_t levels;
    /**
     * Bytes of locked memory it takes, over all containers.
     */
    uint64_t locked_bytes;
    /**
     * The most that is locked meanwhile.
     */
    uint64_t peak_bytes;
    /**
     * Entries that its removal visits one by one, per container.
     */
    uint64_t teardown_entries;
    /**
     * Number of ioctls, over all containers.
     */
    uint32_t ioctls;
    /**
     * 0.
     */
    uint32_t reserved[5];
} spapr_iommu_window_plan;

/**
 * A DMA window that exists.
 */
typedef struct spapr_iommu_window {
    /**
     * Its bus addresses.
     */
    struct spapr_iommu_range range;
    /**
     * Bytes that are mapped in it.
     */
    uint64_t mapped;
    /**
     * Its IOMMU page, as a power of two.
     */
    uint32_t page_shift;
    /**
     * Levels of its TCE table.
     */
    uint32_t levels;
    /**
     * Why it was created: SPAPR_IOMMU_ORIGIN_*.
     */
    uint32_t origin;
    /**
     * 0.
     */
    uint32_t reserved[5];
} spapr_iommu_window;

/**
 * A mapping, or a request for one.
 */
typedef struct spapr_iommu_mapping {
    /**
     * Bus addresses, whole IOMMU pages of one window.
     */
    struct spapr_iommu_range iova;
    /**
     * User address that the first of them leads to, aligned to an IOMMU page.
     */
    uint64_t address;
    /**
     * SPAPR_IOMMU_READ, SPAPR_IOMMU_WRITE or both.
     */
    uint32_t permission;
    /**
     * 0.
     */
    uint32_t reserved;
} spapr_iommu_mapping;

/**
 * Where a bus address leads.
 */
typedef struct spapr_iommu_translation {
    /**
     * User address.
     */
    uint64_t address;
    /**
     * Bytes from here on that continue in user memory, with the same permission.
     */
    uint64_t size;
    /**
     * SPAPR_IOMMU_READ, SPAPR_IOMMU_WRITE or both.
     */
    uint32_t permission;
    /**
     * 0.
     */
    uint32_t reserved;
} spapr_iommu_translation;

/**
 * Configuration of a PHB. Fields that are 0 are as QEMU has them, except `buid` and `liobn`.
 */
typedef struct spapr_iommu_phb_config {
    /**
     * sizeof (spapr_iommu_phb_config).
     */
    uint32_t struct_size;
    /**
     * LIOBN of the default window; the dynamic window has the next one.
     */
    uint32_t liobn;
    /**
     * Bus unit ID, with which RTAS calls name it.
     */
    uint64_t buid;
    /**
     * The default window, with 4 KiB pages: 1 GiB at 0.
     */
    struct spapr_iommu_range default_window;
    /**
     * Start of the dynamic window while no group is attached: 2^59.
     */
    uint64_t dynamic_window;
    /**
     * Page sizes of dynamic windows, bit n for 2^n bytes: 4 KiB, 64 KiB, 2 MiB and 16 MiB.
     */
    uint64_t pages;
    /**
     * The most TCEs of a dynamic window: 2^31.
     */
    uint64_t entries;
    /**
     * The most bytes that the table of one window takes: 16 MiB plus 1/64 of the guest's RAM.
     */
    uint64_t table_memory;
} spapr_iommu_phb_config;

/**
 * Where a bus address leads in the guest.
 */
typedef struct spapr_iommu_guest_translation {
    /**
     * Guest address.
     */
    uint64_t address;
    /**
     * SPAPR_IOMMU_READ, SPAPR_IOMMU_WRITE or both.
     */
    uint32_t permission;
    /**
     * The window's page, as a power of two: the translation holds to its end.
     */
    uint32_t page_shift;
} spapr_iommu_guest_translation;

/**
 * RTAS tokens of the calls for DMA windows: any four numbers that no other call has.
 */
typedef struct spapr_iommu_ddw_tokens {
    /**
     * Token of ibm,query-pe-dma-window.
     */
    uint32_t query;
    /**
     * Token of ibm,create-pe-dma-window.
     */
    uint32_t create;
    /**
     * Token of ibm,remove-pe-dma-window.
     */
    uint32_t remove;
    /**
     * Token of ibm,reset-pe-dma-window.
     */
    uint32_t reset;
} spapr_iommu_ddw_tokens;

/**
 * A property of the PHB's node in the device tree.
 */
typedef struct spapr_iommu_property {
    /**
     * Its name.
     */
    char name[32];
    /**
     * Its value: big-endian cells.
     */
    uint8_t value[56];
    /**
     * Bytes of the value.
     */
    uint32_t size;
    /**
     * 0.
     */
    uint32_t reserved;
} spapr_iommu_property;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Returns the version of the library that runs: SPAPR_IOMMU_ABI of its header.
 */
uint32_t spapr_iommu_abi(void);

/**
 * Returns the status of the last call of this thread that failed, SPAPR_IOMMU_OK if none did.
 */
spapr_iommu_status spapr_iommu_error_status(void);

/**
 * Returns the stable name of the last error of this thread, in kebab case, such as "still-mapped".
 * Valid until the next call of this thread that fails. Never NULL.
 */
const char *spapr_iommu_error_code(void);

/**
 * Returns the message of the last error of this thread, for people: what was requested, the limit,
 * and what to do. Valid until the next call of this thread that fails. Never NULL.
 */
const char *spapr_iommu_error_message(void);

/**
 * Returns the name of a status, such as "busy"; "unknown" for any other number. Static.
 */
const char *spapr_iommu_status_name(int32_t status);

/**
 * Opens the running kernel. Succeeds on any machine: a call that needs what the machine lacks says
 * so.
 */
spapr_iommu_status spapr_iommu_host_kernel(struct spapr_iommu_host **host);

/**
 * Opens the running kernel for a process that may not open /dev/vfio itself, and was handed files.
 * Each is used once, where the library would open the node, containers in their order; nodes
 * without a file are opened as usual. A container must be unused, or have its groups and the sPAPR
 * TCE v2 driver set, and nothing else.
 */
spapr_iommu_status spapr_iommu_host_kernel_files(const struct spapr_iommu_file *files,
                                                 size_t count,
                                                 struct spapr_iommu_host **host);

/**
 * Makes a model of a POWER machine with two groups, 0 and 1, of one `edu` device each. It is named
 * machine[-option...][-page][-kernel], such as "powernv9" or "pseries-4k-7.2"; the machines are
 * powernv8, powernv9, powernv10 and pseries.
 *
 * A model counts locked memory and checks its limit, but neither pins memory nor touches /dev. It
 * sees only memory of spapr_iommu_memory_*.
 */
spapr_iommu_status spapr_iommu_host_model(const char *preset, struct spapr_iommu_host **host);

/**
 * Frees a host. What was made on it stays.
 */
void spapr_iommu_host_free(struct spapr_iommu_host *host);

/**
 * Returns the host's page as a power of two, 12 or 16; 0 for NULL.
 */
uint32_t spapr_iommu_host_page_shift(const struct spapr_iommu_host *host);

/**
 * Lists the devices in IOMMU groups: up to `capacity` go to `devices`, and `count` gets the number
 * there are. With `capacity` 0, `devices` may be NULL.
 */
spapr_iommu_status spapr_iommu_host_devices(const struct spapr_iommu_host *host,
                                            struct spapr_iommu_device_facts *devices,
                                            size_t capacity,
                                            size_t *count);

/**
 * Allocates `size` zeroed bytes in whole pages of 2^`page_shift` bytes, which is the host's page
 * (0) or one of hugetlb.
 */
spapr_iommu_status spapr_iommu_memory_allocate(const struct spapr_iommu_host *host,
                                               uint64_t size,
                                               uint32_t page_shift,
                                               struct spapr_iommu_memory **memory);

/**
 * Maps `size` bytes at `offset` of a memfd or a file of hugetlbfs, whole pages of the host and of
 * the file, shared with all who map it. The file may be closed afterwards. A memfd of
 * MFD_ALLOW_SEALING is sealed against shrinking; any other must not shrink while it is mapped.
 */
spapr_iommu_status spapr_iommu_memory_file(const struct spapr_iommu_host *host,
                                           int32_t fd,
                                           uint64_t offset,
                                           uint64_t size,
                                           struct spapr_iommu_memory **memory);

/**
 * Takes memory of the caller: `size` bytes at `start`, whole pages of the host, readable and
 * writable.
 *
 * The caller keeps it mapped as it is (no munmap, mremap, madvise(MADV_DONTNEED) or free()) until
 * the handle is freed, each lease on it is released, and each guest that has it as RAM has removed
 * it or is freed with all handles of its PHBs.
 */
spapr_iommu_status spapr_iommu_memory_borrow(const struct spapr_iommu_host *host,
                                             void *start,
                                             uint64_t size,
                                             struct spapr_iommu_memory **memory);

/**
 * Returns the first byte; NULL for NULL. The memory is there while the handle, a lease or a guest
 * has it. Devices and guests may change it at any moment: access it as volatile or atomic.
 */
void *spapr_iommu_memory_address(const struct spapr_iommu_memory *memory);

/**
 * Returns the size in bytes; 0 for NULL.
 */
uint64_t spapr_iommu_memory_size(const struct spapr_iommu_memory *memory);

/**
 * Frees the handle, and the memory once no lease and no guest has it.
 */
void spapr_iommu_memory_free(struct spapr_iommu_memory *memory);

/**
 * Creates the registry of this process on a host.
 */
spapr_iommu_status spapr_iommu_registry_new(const struct spapr_iommu_host *host,
                                            struct spapr_iommu_registry **registry);

/**
 * Frees the handle. Spaces, leases and guests keep the registry.
 */
void spapr_iommu_registry_free(struct spapr_iommu_registry *registry);

/**
 * Registers memory. Address spaces of the registry may map it as long as it has a lease.
 */
spapr_iommu_status spapr_iommu_register(const struct spapr_iommu_registry *registry,
                                        const struct spapr_iommu_memory *memory,
                                        struct spapr_iommu_lease **lease);

/**
 * Releases the memory and frees the lease. Refused (SPAPR_IOMMU_BUSY, "still-mapped") while a
 * device can reach a byte of it that no other lease covers: then the lease stays as it was, and
 * the message names the bus addresses.
 */
spapr_iommu_status spapr_iommu_lease_release(struct spapr_iommu_lease *lease);

/**
 * Gives the lease up without asking whether devices still reach the memory: it stays registered
 * until its last mapping is gone, but takes no new one. Memory of spapr_iommu_memory_borrow must
 * stay until then; memory of spapr_iommu_memory_allocate that devices of a model still reach is
 * never freed.
 */
void spapr_iommu_lease_free(struct spapr_iommu_lease *lease);

/**
 * Lists the kernel's regions, by address: up to `capacity` go to `regions`, and `count` gets the
 * number there are. With `capacity` 0, `regions` may be NULL.
 */
spapr_iommu_status spapr_iommu_registry_regions(const struct spapr_iommu_registry *registry,
                                                struct spapr_iommu_region *regions,
                                                size_t capacity,
                                                size_t *count);

/**
 * Creates an address space without groups, which maps memory of the registry.
 */
spapr_iommu_status spapr_iommu_space_new(const struct spapr_iommu_registry *registry,
                                         struct spapr_iommu_space **space);

/**
 * Frees the handle. With the last one, and the last device of the space, everything is unmapped
 * and its groups are detached.
 */
void spapr_iommu_space_free(struct spapr_iommu_space *space);

/**
 * Attaches an IOMMU group, in a container of its own: its devices see what is mapped.
 */
spapr_iommu_status spapr_iommu_space_attach(const struct spapr_iommu_space *space, uint32_t group);

/**
 * Attaches a group to the container of another one, which saves ioctls. Only on powernv.
 */
spapr_iommu_status spapr_iommu_space_attach_beside(const struct spapr_iommu_space *space,
                                                   uint32_t group,
                                                   uint32_t other);

/**
 * Detaches a group, whose devices must be free.
 */
spapr_iommu_status spapr_iommu_space_detach(const struct spapr_iommu_space *space, uint32_t group);

/**
 * Plans a window and creates nothing.
 */
spapr_iommu_status spapr_iommu_space_plan_window(const struct spapr_iommu_space *space,
                                                 const struct spapr_iommu_window_request *request,
                                                 struct spapr_iommu_window_plan *plan);

/**
 * Creates a window. `window` may be NULL.
 */
spapr_iommu_status spapr_iommu_space_create_window(const struct spapr_iommu_space *space,
                                                   const struct spapr_iommu_window_request *request,
                                                   struct spapr_iommu_window *window);

/**
 * Removes the window that starts at `start`, in which nothing may be mapped.
 */
spapr_iommu_status spapr_iommu_space_remove_window(const struct spapr_iommu_space *space,
                                                   uint64_t start);

/**
 * Removes the default window, for good.
 */
spapr_iommu_status spapr_iommu_space_drop_default_window(const struct spapr_iommu_space *space);

/**
 * Makes sure that bus addresses can be mapped, now and until they are unreserved: creates the
 * window they need. `window` may be NULL.
 */
spapr_iommu_status spapr_iommu_space_reserve(const struct spapr_iommu_space *space,
                                             struct spapr_iommu_range range,
                                             struct spapr_iommu_window *window);

/**
 * Ends a reservation. Windows that nothing needs go.
 */
spapr_iommu_status spapr_iommu_space_unreserve(const struct spapr_iommu_space *space,
                                               struct spapr_iommu_range range);

/**
 * Lists the windows, at most two: up to `capacity` go to `windows`, and `count` gets the number
 * there are. `state` gets that of the default window,
 * SPAPR_IOMMU_DEFAULT_*; it may be NULL.
 */
spapr_iommu_status spapr_iommu_space_windows(const struct spapr_iommu_space *space,
                                             struct spapr_iommu_window *windows,
                                             size_t capacity,
                                             size_t *count,
                                             uint32_t *state);

/**
 * Maps bus addresses to registered memory at `address`. The window they need is created. Fails if
 * something is mapped there.
 */
spapr_iommu_status spapr_iommu_space_map(const struct spapr_iommu_space *space,
                                         struct spapr_iommu_range iova,
                                         const void *address,
                                         uint32_t permission);

/**
 * Makes all mappings, or none. Neighbours that continue each other become one MAP. `flags` is 0 or
 * SPAPR_IOMMU_REPLACE.
 */
spapr_iommu_status spapr_iommu_space_map_all(const struct spapr_iommu_space *space,
                                             const struct spapr_iommu_mapping *maps,
                                             size_t number,
                                             uint32_t flags);

/**
 * Unmaps everything in a range of whole IOMMU pages of one window. `bytes` gets how many were
 * mapped; it may be NULL.
 */
spapr_iommu_status spapr_iommu_space_unmap(const struct spapr_iommu_space *space,
                                           struct spapr_iommu_range iova,
                                           uint64_t *bytes);

/**
 * Translates a bus address. SPAPR_IOMMU_NOT_FOUND if nothing is mapped there. Waits for no ioctl.
 */
spapr_iommu_status spapr_iommu_space_translate(const struct spapr_iommu_space *space,
                                               uint64_t iova,
                                               struct spapr_iommu_translation *translation);

/**
 * Lists the mappings in `range`, cut to it, in order: up to `capacity` go to `maps`, and `count`
 * gets the number there are.
 */
spapr_iommu_status spapr_iommu_space_mappings(const struct spapr_iommu_space *space,
                                              struct spapr_iommu_range range,
                                              struct spapr_iommu_mapping *maps,
                                              size_t capacity,
                                              size_t *count);

/**
 * Opens a device of an attached group by its PCI address. Its BARs answer, and it does no DMA.
 */
spapr_iommu_status spapr_iommu_device_open(const struct spapr_iommu_space *space,
                                           uint32_t group,
                                           const char *address,
                                           struct spapr_iommu_device **device);

/**
 * Takes the device off the bus and frees it.
 */
void spapr_iommu_device_free(struct spapr_iommu_device *device);

/**
 * Lets the device read and write memory, and send messages.
 */
spapr_iommu_status spapr_iommu_device_start_dma(const struct spapr_iommu_device *device);

/**
 * Takes the device off the bus. What it had under way has arrived when this returns.
 */
spapr_iommu_status spapr_iommu_device_stop_dma(const struct spapr_iommu_device *device);

/**
 * Resets the device, which is off the bus afterwards.
 */
spapr_iommu_status spapr_iommu_device_reset(const struct spapr_iommu_device *device);

/**
 * Returns the device's VFIO file, for other interfaces of the kernel; -1 on a model, which has no
 * files, and for NULL. It stays the library's: do not close it, and do not turn memory decode off
 * by it.
 */
int32_t spapr_iommu_device_file(const struct spapr_iommu_device *device);

/**
 * Opens BAR 0 to 5. `endian` is SPAPR_IOMMU_LITTLE_ENDIAN or SPAPR_IOMMU_BIG_ENDIAN.
 */
spapr_iommu_status spapr_iommu_bar_open(const struct spapr_iommu_device *device,
                                        uint32_t index,
                                        uint32_t endian,
                                        struct spapr_iommu_bar **bar);

/**
 * Frees a BAR.
 */
void spapr_iommu_bar_free(struct spapr_iommu_bar *bar);

/**
 * Reads the register of `width` bytes, 1, 2, 4 or 8, at `offset`: one access, ordered with memory.
 * If all bits are ones, the device is checked: SPAPR_IOMMU_DEVICE if it is frozen or gone.
 */
spapr_iommu_status spapr_iommu_bar_read(const struct spapr_iommu_bar *bar,
                                        uint64_t offset,
                                        uint32_t width,
                                        uint64_t *value);

/**
 * Writes the register of `width` bytes, 1, 2, 4 or 8, at `offset`. `value` must fit.
 */
spapr_iommu_status spapr_iommu_bar_write(const struct spapr_iommu_bar *bar,
                                         uint64_t offset,
                                         uint32_t width,
                                         uint64_t value);

/**
 * Returns in `count` how many interrupts of a kind the device has. SPAPR_IOMMU_NOT_FOUND if none.
 */
spapr_iommu_status spapr_iommu_device_interrupts(const struct spapr_iommu_device *device,
                                                 uint32_t kind,
                                                 uint32_t *count);

/**
 * Enables the first `count` interrupts of a kind, all at once: each signals its eventfd, such as
 * one that KVM turns into an interrupt of a guest. The kernel keeps the eventfds open. They are
 * disabled when the handle or the device is freed.
 */
spapr_iommu_status spapr_iommu_interrupts_enable(const struct spapr_iommu_device *device,
                                                 uint32_t kind,
                                                 const int32_t *eventfds,
                                                 size_t count,
                                                 struct spapr_iommu_interrupts **interrupts);

/**
 * Lets INTx fire again, after the device has deasserted its pin. Messages do not need it.
 */
spapr_iommu_status spapr_iommu_interrupts_rearm(const struct spapr_iommu_interrupts *interrupts);

/**
 * Has the kernel do this whenever `eventfd` is signalled, as KVM does at the guest's end of
 * interrupt (resamplefd). For INTx only.
 */
spapr_iommu_status spapr_iommu_interrupts_rearm_by(const struct spapr_iommu_interrupts *interrupts,
                                                   int32_t eventfd);

/**
 * Disables the interrupts.
 */
void spapr_iommu_interrupts_free(struct spapr_iommu_interrupts *interrupts);

/**
 * Creates the IOMMU of a guest without RAM.
 */
spapr_iommu_status spapr_iommu_guest_new(const struct spapr_iommu_registry *registry,
                                         struct spapr_iommu_guest **guest);

/**
 * Does the same for a guest of KVM: the kernel keeps its tables and answers H_PUT_TCE and
 * H_GET_TCE itself. `vm` is the file of KVM_CREATE_VM, of which the library keeps a duplicate;
 * `vfio` is that of the VM's VFIO device, or -1 if it has none yet. No vCPU may run while groups
 * are attached or detached, or RAM is removed.
 */
spapr_iommu_status spapr_iommu_guest_new_kvm(const struct spapr_iommu_registry *registry,
                                             int32_t vm,
                                             int32_t vfio,
                                             struct spapr_iommu_guest **guest);

/**
 * Frees the guest and its tables. PHBs whose handles are held keep their windows until those are
 * freed.
 */
void spapr_iommu_guest_free(struct spapr_iommu_guest *guest);

/**
 * Makes memory RAM of the guest, from guest address `start` on, and registers it.
 */
spapr_iommu_status spapr_iommu_guest_add_memory(const struct spapr_iommu_guest *guest,
                                                uint64_t start,
                                                const struct spapr_iommu_memory *memory);

/**
 * Removes a slot of RAM. Refused while the guest's TCEs lead into it (SPAPR_IOMMU_BUSY, "mapped");
 * from then on the guest cannot map it again. Call this again after it has unmapped the slot, or
 * call spapr_iommu_guest_keep_memory.
 */
spapr_iommu_status spapr_iommu_guest_remove_memory(const struct spapr_iommu_guest *guest,
                                                   uint64_t start,
                                                   uint64_t size);

/**
 * Keeps a slot whose removal was refused.
 */
spapr_iommu_status spapr_iommu_guest_keep_memory(const struct spapr_iommu_guest *guest,
                                                 uint64_t start,
                                                 uint64_t size);

/**
 * Adds a PHB with its default window. `phb` may be NULL: spapr_iommu_guest_phb finds it.
 */
spapr_iommu_status spapr_iommu_guest_add_phb(const struct spapr_iommu_guest *guest,
                                             const struct spapr_iommu_phb_config *config,
                                             struct spapr_iommu_phb **phb);

/**
 * Returns a further handle of the PHB with that bus unit ID.
 */
spapr_iommu_status spapr_iommu_guest_phb(const struct spapr_iommu_guest *guest,
                                         uint64_t buid,
                                         struct spapr_iommu_phb **phb);

/**
 * Removes a PHB and its windows, after its groups were detached.
 */
spapr_iommu_status spapr_iommu_guest_remove_phb(const struct spapr_iommu_guest *guest,
                                                uint64_t buid);

/**
 * Gives every PHB its initial windows back, as the reset of the machine does. No vCPU may run.
 */
spapr_iommu_status spapr_iommu_guest_reset(const struct spapr_iommu_guest *guest);

/**
 * Answers a hypercall as KVM_EXIT_PAPR_HCALL passes it: its number and the nine values of r4 to
 * r12, which may be changed. `result` gets r3 for the guest. SPAPR_IOMMU_NOT_HANDLED if it is not
 * a TCE hypercall. A call that the guest may not make is answered, and is not an error.
 */
spapr_iommu_status spapr_iommu_guest_hcall(const struct spapr_iommu_guest *guest,
                                           uint64_t number,
                                           uint64_t *args,
                                           int64_t *result);

/**
 * H_PUT_TCE: sets the TCE at bus address `ioba`. `result` gets r3 for the guest, also if this
 * fails; it may be NULL. The error is for the VMM to log.
 */
spapr_iommu_status spapr_iommu_guest_put_tce(const struct spapr_iommu_guest *guest,
                                             uint32_t liobn,
                                             uint64_t ioba,
                                             uint64_t tce,
                                             int64_t *result);

/**
 * H_PUT_TCE_INDIRECT: sets `count` TCEs, at most 512, from the big-endian list at guest address
 * `list`, all or none. `result` as above.
 */
spapr_iommu_status spapr_iommu_guest_put_tce_indirect(const struct spapr_iommu_guest *guest,
                                                      uint32_t liobn,
                                                      uint64_t ioba,
                                                      uint64_t list,
                                                      uint64_t count,
                                                      int64_t *result);

/**
 * H_STUFF_TCE: sets `count` TCEs to `tce`, which must give no rights. `result` as above.
 */
spapr_iommu_status spapr_iommu_guest_stuff_tce(const struct spapr_iommu_guest *guest,
                                               uint32_t liobn,
                                               uint64_t ioba,
                                               uint64_t tce,
                                               uint64_t count,
                                               int64_t *result);

/**
 * H_GET_TCE: reads the TCE at `ioba` as the guest set it. `result` as above.
 */
spapr_iommu_status spapr_iommu_guest_get_tce(const struct spapr_iommu_guest *guest,
                                             uint32_t liobn,
                                             uint64_t ioba,
                                             uint64_t *tce,
                                             int64_t *result);

/**
 * Translates a bus address in the window with that LIOBN, by the guest's TCEs.
 * SPAPR_IOMMU_NOT_FOUND where the guest gave no rights. Lock-free.
 */
spapr_iommu_status spapr_iommu_guest_translate(const struct spapr_iommu_guest *guest,
                                               uint32_t liobn,
                                               uint64_t iova,
                                               struct spapr_iommu_guest_translation *translation);

/**
 * Saves windows and entries: `size` gets the number of bytes, of which up to `capacity` go to
 * `bytes`. The guest must not run. The bytes are for spapr_iommu_guest_restore of any machine.
 */
spapr_iommu_status spapr_iommu_guest_save(const struct spapr_iommu_guest *guest,
                                          uint8_t *bytes,
                                          size_t capacity,
                                          size_t *size);

/**
 * Replaces windows and entries of the guest's PHBs by saved ones. Call it after all RAM and PHBs
 * were added, and before groups are attached. All of the state is checked before any of it is
 * built.
 */
spapr_iommu_status spapr_iommu_guest_restore(const struct spapr_iommu_guest *guest,
                                             const uint8_t *bytes,
                                             size_t size);

/**
 * Frees a handle. The PHB stays in its guest.
 */
void spapr_iommu_phb_free(struct spapr_iommu_phb *phb);

/**
 * Attaches an IOMMU group of the host: its devices see what the guest has mapped, and from now on
 * maps.
 */
spapr_iommu_status spapr_iommu_phb_attach(const struct spapr_iommu_phb *phb, uint32_t group);

/**
 * Detaches a group, whose devices must be free.
 */
spapr_iommu_status spapr_iommu_phb_detach(const struct spapr_iommu_phb *phb, uint32_t group);

/**
 * Returns a handle of the address space that the PHB's groups are in, to open their devices.
 * Nothing but the PHB may map in it or change its windows.
 */
spapr_iommu_status spapr_iommu_phb_space(const struct spapr_iommu_phb *phb,
                                         struct spapr_iommu_space **space);

/**
 * Translates a bus address by the guest's TCEs, for an emulated device. SPAPR_IOMMU_NOT_FOUND
 * where the guest gave no rights. Lock-free.
 */
spapr_iommu_status spapr_iommu_phb_translate(const struct spapr_iommu_phb *phb,
                                             uint64_t iova,
                                             struct spapr_iommu_guest_translation *translation);

/**
 * Reads guest memory at a bus address as an emulated device does. After an error, some of it may
 * have been read.
 */
spapr_iommu_status spapr_iommu_phb_read(const struct spapr_iommu_phb *phb,
                                        uint64_t iova,
                                        void *data,
                                        size_t size);

/**
 * Writes guest memory at a bus address as an emulated device does. After an error, some of it may
 * have been written.
 */
spapr_iommu_status spapr_iommu_phb_write(const struct spapr_iommu_phb *phb,
                                         uint64_t iova,
                                         const void *data,
                                         size_t size);

/**
 * Answers an RTAS call for DMA windows by its cells, as numbers: ibm,query-pe-dma-window with 5 or
 * 6 results, create, remove and reset. `token` is one of `tokens`; any other gives
 * SPAPR_IOMMU_NOT_HANDLED. rets[0] gets the status for the guest, also if this fails; the error is
 * for the VMM to log.
 */
spapr_iommu_status spapr_iommu_guest_rtas(const struct spapr_iommu_guest *guest,
                                          const struct spapr_iommu_ddw_tokens *tokens,
                                          uint32_t token,
                                          const uint32_t *args,
                                          size_t arg_count,
                                          uint32_t *rets,
                                          size_t ret_count);

/**
 * Answers SPAPR_IOMMU_H_RTAS: an RTAS call whose argument block is at guest address `block`.
 * `result` gets r3 for the guest. SPAPR_IOMMU_NOT_HANDLED, without any effect, if its token is
 * none of `tokens`.
 */
spapr_iommu_status spapr_iommu_guest_h_rtas(const struct spapr_iommu_guest *guest,
                                            const struct spapr_iommu_ddw_tokens *tokens,
                                            uint64_t block,
                                            int64_t *result);

/**
 * Lists the DMA properties of the PHB's node: up to `capacity` go to `properties`, and `count`
 * gets the number there are. With `capacity` 0, `properties` may be NULL.
 */
spapr_iommu_status spapr_iommu_phb_properties(const struct spapr_iommu_phb *phb,
                                              const struct spapr_iommu_ddw_tokens *tokens,
                                              struct spapr_iommu_property *properties,
                                              size_t capacity,
                                              size_t *count);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SPAPR_IOMMU_H */
